"""Three notebooks as somebody else would write them: plain, untagged, other names inside. They test the grader."""

RNN = """
import torch
import torch.nn as nn
from torchtext.data.utils import get_tokenizer

device = torch.device("cpu")
tokenizer = get_tokenizer("basic_english")
vocab = build_vocab(train_iter)  # not known here: the grader brings a vocabulary


def text_pipeline(x):
    return [vocab[token] for token in tokenizer(x)]


def label_pipeline(x):
    return int(x) - 1


def collate_batch(batch):
    texts = [text_pipeline(text) for _, text in batch]
    size = max(1, int(sum(len(t) for t in texts) / len(texts)))
    rows = torch.zeros(size, len(texts), dtype=torch.long)
    lengths = []
    for i, text in enumerate(texts):
        text = text[:size]
        rows[: len(text), i] = torch.tensor(text, dtype=torch.long)
        lengths.append(max(1, len(text)))
    return rows, torch.tensor([label_pipeline(label) for label, _ in batch]), torch.tensor(lengths)


class RNN(nn.Module):
    def __init__(self, vocab_size, input_size, hidden_size, num_class):
        super().__init__()
        self.hidden_size = hidden_size
        self.embedding = nn.Parameter(torch.randn(vocab_size, input_size) * 0.3)
        self.W_xh = nn.Parameter(torch.randn(input_size, hidden_size) * 0.3)
        self.W_hh = nn.Parameter(torch.randn(hidden_size, hidden_size) * 0.1)
        self.W_hy = nn.Parameter(torch.randn(hidden_size, num_class) * 0.3)
        self.b_xh = nn.Parameter(torch.zeros(1, hidden_size))
        self.b_hh = nn.Parameter(torch.zeros(1, hidden_size))
        self.b_hy = nn.Parameter(torch.zeros(num_class))

    def forward(self, inputs, length):
        steps, batch = inputs.shape
        h = torch.zeros(batch, self.hidden_size, dtype=self.W_hh.dtype)
        if self.training:
            h = torch.randn_like(h) * 0.1
        x = self.embedding[inputs]
        for t in range(steps):
            new = torch.tanh(x[t] @ self.W_xh + self.b_xh + h @ self.W_hh + self.b_hh)
            h = torch.where((t < length).unsqueeze(1), new, h)
        return torch.softmax(h @ self.W_hy + self.b_hy, dim=1)

    def compute_loss(self, prediction, label):
        chosen = prediction[torch.arange(len(label)), label]
        loss = -torch.log(chosen.clamp(min=1e-30)).mean()
        return loss, int((prediction.argmax(1) == label).sum())


class ScheduledOptim:
    def __init__(self, optimizer, n_warmup_steps, decay_rate):
        self.optimizer, self.warmup, self.decay, self.n = optimizer, n_warmup_steps, decay_rate, 0
        self.base = optimizer.param_groups[0]["lr"]

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self):
        self.optimizer.step()

    def get_lr(self):
        return self.optimizer.param_groups[0]["lr"]

    def update(self):
        self.n += 1
        rate = self.base * self.n / self.warmup if self.n <= self.warmup else self.get_lr() * self.decay
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def train(model, train_loader, scheduler):
    model.train()
    total, hits, count = 0.0, 0, 0
    for text, label, length in train_loader:
        loss, correct = model.compute_loss(model(text, length), label)
        scheduler.zero_grad()
        loss.backward()
        scheduler.update()
        scheduler.step()
        total, hits, count = total + loss.item() * len(label), hits + correct, count + len(label)
    return total / count, 100 * hits / count


def evaluate(model, test_loader):
    model.eval()
    total, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for text, label, length in test_loader:
            loss, correct = model.compute_loss(model(text, length), label)
            total, hits, count = total + loss.item() * len(label), hits + correct, count + len(label)
    return total / count, 100 * hits / count


model = RNN(len(vocab), 64, 64, 4)
"""

SEQ2SEQ = """
import random

import torch
import torch.nn as nn

PAD = 2


class LSTMEncoder(nn.Module):
    def __init__(self, in_dim, emb_dim, hid_dim):
        super().__init__()
        self.emb = nn.Embedding(in_dim, emb_dim)
        self.net = nn.LSTM(emb_dim, hid_dim, batch_first=True)

    def forward(self, src, length):
        packed = nn.utils.rnn.pack_padded_sequence(self.emb(src), length, batch_first=True, enforce_sorted=False)
        out, (h, c) = self.net(packed)
        return nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=src.shape[1])[0], h, c


class AttnLSTMDecoder(nn.Module):
    def __init__(self, emb_dim, hid_dim, out_dim, dropout, enc_hiddens=None):
        super().__init__()
        self.emb = nn.Embedding(out_dim, emb_dim)
        self.net = nn.LSTM(emb_dim + hid_dim, hid_dim, batch_first=True)
        self.out = nn.Linear(hid_dim, out_dim)
        self.drop = nn.Dropout(dropout)
        self.enc_hiddens, self.mask = enc_hiddens, None

    def forward(self, input, hidden, cell):
        scores = (self.enc_hiddens * hidden[0].unsqueeze(1)).sum(2)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask, float("-inf"))
        context = (torch.softmax(scores, 1).unsqueeze(2) * self.enc_hiddens).sum(1, keepdim=True)
        x = torch.cat([context, self.drop(self.emb(input))], 2)
        out, (hidden, cell) = self.net(x, (hidden, cell))
        return torch.log_softmax(self.out(out.squeeze(1)), 1), hidden, cell


class LSTMSeq2Seq(nn.Module):
    def __init__(self, in_dim, out_dim, emb_dim, hid_dim, device, dropout):
        super().__init__()
        self.encoder = LSTMEncoder(in_dim, emb_dim, hid_dim)
        self.decoder = AttnLSTMDecoder(emb_dim, hid_dim, out_dim, dropout)
        self.out_dim = out_dim
        self.to(device)

    def forward(self, src, trg):
        length = (src == 1).int().argmax(1) + 1
        self.decoder.enc_hiddens, hidden, cell = self.encoder(src, length.cpu())
        self.decoder.mask = torch.arange(src.shape[1]) >= length.unsqueeze(1)
        columns = [torch.zeros(len(src), self.out_dim, dtype=hidden.dtype)]
        for t in range(1, trg.shape[1]):
            out, hidden, cell = self.decoder(trg[:, t - 1 : t], hidden, cell)
            columns.append(out)
        return torch.stack(columns, 2)


def train(model, iterator, optimizer, loss_fn, clip):
    model.train()
    total = 0.0
    for src, trg in iterator:
        loss = loss_fn(model(src, trg)[:, :, 1:], trg[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        total += loss.item()
    return total / len(iterator)


def evaluate(model, iterator, loss_fn):
    model.eval()
    with torch.no_grad():
        return sum(loss_fn(model(src, trg), trg).item() for src, trg in iterator) / len(iterator)
"""

VIT = """
import torch
import torch.nn as nn


class Patchification(nn.Module):
    def __init__(self, in_channels, patch_size, embedding_dim):
        super().__init__()
        self.cut = nn.Conv2d(in_channels, embedding_dim, patch_size, patch_size)

    def forward(self, x):
        return self.cut(x).flatten(2).permute(0, 2, 1)


class MLP(nn.Module):
    def __init__(self, dim, hidden_dim, dropout=0.0):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))

    def forward(self, x):
        return self.net(x)


class Attention(nn.Module):
    def __init__(self, dim, num_heads, dropout=0.0):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.h = num_heads

    def forward(self, x):
        B, N, D = x.shape
        q, k, v = (f(x).view(B, N, self.h, D // self.h).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(2, 3) / (D // self.h) ** 0.5, dim=3)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, dim, num_heads, mlp_dim, dropout=0.0):
        super().__init__()
        self.mlp, self.n2 = MLP(dim, mlp_dim, dropout), nn.LayerNorm(dim)
        self.att, self.n1 = Attention(dim, num_heads, dropout), nn.LayerNorm(dim)

    def forward(self, x):
        x = self.att(self.n1(x)) + x
        return self.mlp(self.n2(x)) + x


class ViT(nn.Module):
    def __init__(self, image_shape, patch_size, num_classes, dim, num_heads, depth, mlp_dim, dropout=0.0):
        super().__init__()
        C, H, W = image_shape
        self.patchify = Patchification(C, patch_size, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + H * W // patch_size[0] // patch_size[1], dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.attention_blocks = nn.ModuleList([Block(dim, num_heads, mlp_dim, dropout) for _ in range(depth)])
        self.classification_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, x):
        x = self.patchify(x)
        x = torch.cat([self.cls_token.repeat(len(x), 1, 1), x], 1) + self.pos_embedding
        for block in self.attention_blocks:
            x = block(x)
        return self.classification_head(x[:, 0])
"""
