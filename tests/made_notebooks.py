"""Notebooks as others write them, to test the grader: in the manner of the course's skeletons, and one more freely."""

import json

RNN = """
%cd /content/drive/MyDrive/hw4

%%%
from google.colab import drive
drive.mount('/content/drive')
!pip install torch==2.1.0 torchtext==0.16.0 portalocker

%%%
import time
import torch
import torch.nn as nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from torchtext.data.functional import to_map_style_dataset
from torchtext.data.utils import get_tokenizer
from torchtext.datasets import AG_NEWS
from torchtext.vocab import build_vocab_from_iterator

DEVICE = torch.device('cuda') if torch.cuda.is_available() else torch.device('cpu')
print(torch.cuda.get_device_name(0))

%%%
train_iter, test_iter = AG_NEWS(root='./data', split=('train', 'test'))
train_dataset, test_dataset = to_map_style_dataset(train_iter), to_map_style_dataset(test_iter)
tokenizer = get_tokenizer('basic_english')

def yield_tokens(data_iter):
    for _, text in data_iter:
        yield tokenizer(text)

encoder = build_vocab_from_iterator(yield_tokens(train_dataset), specials=["<unk>"])
encoder.set_default_index(encoder["<unk>"])
text_pipeline = lambda x: encoder(tokenizer(x))
label_pipeline = lambda x: int(x) - 1

%%%
def collate_batch(batch):
    label_list, text_list, length_list = [], [], []
    for (_label, _text) in batch:
        label_list.append(label_pipeline(_label))
        text_list.append(torch.tensor(text_pipeline(_text), dtype=torch.int64))
    average = sum(len(t) for t in text_list) // len(text_list)
    padded = []
    for t in text_list:
        length_list.append(min(len(t), average))
        if len(t) >= average:
            padded.append(t[:average])
        else:
            padded.append(torch.cat([t, torch.zeros(average - len(t), dtype=torch.int64)]))
    text = torch.stack(padded).permute(1, 0)
    label = torch.tensor(label_list, dtype=torch.int64)
    length = torch.tensor(length_list, dtype=torch.int64)
    return text.to(DEVICE), label.to(DEVICE), length.to(DEVICE)

train_loader = DataLoader(train_dataset, batch_size=64, shuffle=True, collate_fn=collate_batch, num_workers=2)
test_loader = DataLoader(test_dataset, batch_size=64, shuffle=False, collate_fn=collate_batch)

%%%
class RNN(nn.Module):
    def __init__(self, vocab_size, input_size, hidden_size, num_class, dropout_ratio):
        super(RNN, self).__init__()
        self.hidden_size = hidden_size
        self.dropout_ratio = dropout_ratio
        self.embedding = nn.Embedding(vocab_size, input_size)
        self.W_hh = nn.parameter.Parameter(torch.empty((hidden_size, hidden_size), device=DEVICE, dtype=torch.float))
        self.W_xh = nn.parameter.Parameter(torch.empty((input_size, hidden_size), device=DEVICE, dtype=torch.float))
        self.W_hy = nn.parameter.Parameter(torch.empty((hidden_size, num_class), device=DEVICE, dtype=torch.float))
        self.b_hh = nn.parameter.Parameter(torch.empty((1, hidden_size), device=DEVICE, dtype=torch.float))
        self.b_xh = nn.parameter.Parameter(torch.empty((1, hidden_size), device=DEVICE, dtype=torch.float))
        self.b_hy = nn.parameter.Parameter(torch.empty((1, num_class), device=DEVICE, dtype=torch.float))
        self.init_parameters()

    def init_parameters(self):
        for name, param in self.named_parameters():
            nn.init.kaiming_uniform_(param)

    def forward(self, inputs, length):
        x = self.embedding(inputs)
        T, B, _ = x.size()
        if self.training and self.dropout_ratio > 0:
            mask = (torch.rand(x.shape, device=DEVICE) > self.dropout_ratio).float()
            x = x * mask / (1 - self.dropout_ratio)
        h = torch.zeros(B, self.hidden_size).to(DEVICE)
        hiddens = []
        for t in range(T):
            h = torch.tanh(torch.matmul(x[t], self.W_xh) + self.b_xh + torch.matmul(h, self.W_hh) + self.b_hh)
            hiddens.append(h)
        hiddens = torch.stack(hiddens)
        last = hiddens[length - 1, torch.arange(B)]
        logits = torch.matmul(last, self.W_hy) + self.b_hy
        return torch.softmax(logits, dim=-1)

    def compute_loss(self, prediction, label):
        p = prediction[range(len(label)), label]
        loss = -torch.log(p + 1e-7).sum()
        correct = (prediction.argmax(1) == label).sum().item()
        return loss, correct

%%%
class ScheduledOptim():
    def __init__(self, optimizer, n_warmup_steps, decay_rate):
        self._optimizer = optimizer
        self.n_warmup_steps = n_warmup_steps
        self.decay = decay_rate
        self.n_steps = 0
        self.initial_lr = optimizer.param_groups[0]['lr']
        self.current_lr = optimizer.param_groups[0]['lr']

    def zero_grad(self):
        self._optimizer.zero_grad()

    def step(self):
        self._optimizer.step()

    def get_lr(self):
        return self.current_lr

    def update(self):
        if self.n_steps < self.n_warmup_steps:
            lr = self.n_steps / self.n_warmup_steps * self.initial_lr
        elif self.n_steps == self.n_warmup_steps:
            lr = self.initial_lr
        else:
            lr = self.current_lr * self.decay
        self.current_lr = lr
        for param_group in self._optimizer.param_groups:
            param_group['lr'] = lr
        self.n_steps += 1

%%%
def train(model, train_loader, scheduler):
    model.train()
    total_loss, total_correct = 0, 0
    for text, label, length in train_loader:
        scheduler.zero_grad()
        loss, correct = model.compute_loss(model(text, length), label)
        loss.backward()
        scheduler.step()
        scheduler.update()
        total_loss += loss.item()
        total_correct += correct
    return total_loss / len(train_loader.dataset), total_correct / len(train_loader.dataset) * 100

def evaluate(model, test_loader):
    model.eval()
    total_loss, total_correct = 0, 0
    with torch.no_grad():
        for text, label, length in test_loader:
            loss, correct = model.compute_loss(model(text, length), label)
            total_loss += loss.item()
            total_correct += correct
    return total_loss / len(test_loader.dataset), total_correct / len(test_loader.dataset) * 100

%%%
%load_ext tensorboard
%tensorboard --logdir ./logs

%%%
EPOCHS = 30
best = 0
for opt_name in ['Adam', 'SGD']:
    model = RNN(len(encoder), 64, 256, 4, 0.3).to(DEVICE)
    writer = SummaryWriter(f'logs/{opt_name}')
    scheduler = ScheduledOptim(getattr(torch.optim, opt_name)(model.parameters(), lr=1e-3), 3, 0.9)
    for epoch in range(1, EPOCHS + 1):
        start = time.time()
        train_loss, train_acc = train(model, train_loader, scheduler)
        valid_loss, valid_acc = evaluate(model, test_loader)
        writer.add_scalar('valid/acc', valid_acc, epoch)
        print('| epoch {:3d} | time {:5.2f}s | train loss {:.3f} | valid accuracy {:8.1f}'.format(
            epoch, time.time() - start, train_loss, valid_acc))
"""

SEQ2SEQ = """
from google.colab import drive
drive.mount('/content/drive')
%cd /content/drive/MyDrive/hw4

%%%
import math
import random
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import TransformerEncoder, TransformerEncoderLayer
from torch.utils.data import DataLoader, Dataset, random_split
import matplotlib.pyplot as plt
from data.data import prepareData

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MAX_LENGTH = 10

%%%
class TranslateDataset(Dataset):
    def __init__(self, max_length=MAX_LENGTH):
        self.input_lang, self.output_lang, self.pairs = prepareData('eng', 'fra', max_length=max_length, reverse=True)
        self.max_length = max_length
        self.input_lang.addWord('PAD')
        self.output_lang.addWord('PAD')

    def __len__(self):
        return len(self.pairs)

    def ids(self, lang, sentence):
        words = [lang.word2index[w] for w in sentence.split()][: self.max_length - 2]
        words = [0] + words + [1]
        return torch.tensor(words + [lang.word2index['PAD']] * (self.max_length - len(words)))

    def __getitem__(self, i):
        return self.ids(self.input_lang, self.pairs[i][0]), self.ids(self.output_lang, self.pairs[i][1])

dataset = TranslateDataset()
PAD_IDX = dataset.output_lang.word2index['PAD']

%%%
class LSTMEncoder(nn.Module):
    def __init__(self, in_dim, emb_dim, hid_dim):
        super().__init__()
        self.embedding = nn.Embedding(in_dim, emb_dim)
        self.lstm = nn.LSTM(emb_dim, hid_dim)

    def forward(self, input, hidden, cell):
        embedded = self.embedding(input).view(1, input.size(0), -1)
        output, (hidden, cell) = self.lstm(embedded, (hidden, cell))
        return output, hidden, cell

class AttnLSTMDecoder(nn.Module):
    def __init__(self, emb_dim, hid_dim, out_dim, dropout, enc_hiddens=None):
        super().__init__()
        self.enc_hiddens = enc_hiddens
        self.t = 0
        self.embedding = nn.Embedding(out_dim, emb_dim)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(emb_dim, hid_dim)
        self.fc = nn.Linear(2 * hid_dim, hid_dim)
        self.out = nn.Linear(hid_dim, out_dim)

    def forward(self, input, hidden, cell):
        self.t += 1
        query = hidden.permute(1, 2, 0)
        scores = torch.bmm(self.enc_hiddens, query)
        weights = F.softmax(scores, dim=1)
        context = torch.bmm(weights.permute(0, 2, 1), self.enc_hiddens).permute(1, 0, 2)
        hidden = torch.tanh(self.fc(torch.cat((hidden, context), dim=2)))
        embedded = self.dropout(self.embedding(input)).view(1, input.size(0), -1)
        output, (hidden, cell) = self.lstm(embedded, (hidden, cell))
        return weights, hidden, F.log_softmax(self.out(output[0]), dim=1), cell

class LSTMSeq2Seq(nn.Module):
    def __init__(self, in_dim, out_dim, emb_dim, hid_dim, device, dropout):
        super().__init__()
        self.hid_dim = hid_dim
        self.device = device
        self.encoder = LSTMEncoder(in_dim, emb_dim, hid_dim)
        self.decoder = AttnLSTMDecoder(emb_dim, hid_dim, out_dim, dropout)

    def forward(self, src, trg):
        B, T = trg.shape
        outputs = torch.zeros(B, dataset.output_lang.n_words, dataset.max_length).to(self.device)
        hidden = torch.zeros(1, B, self.hid_dim).to(self.device)
        cell = torch.zeros(1, B, self.hid_dim).to(self.device)
        states = torch.zeros(B, src.size(1), self.hid_dim).to(self.device)
        for i in range(src.size(1)):
            output, hidden, cell = self.encoder(src[:, i], hidden, cell)
            states[:, i] = output[0]
        self.decoder.enc_hiddens = states
        self.decoder.t = 0
        token = trg[:, 0]
        for t in range(1, T):
            attention, hidden, output, cell = self.decoder(token, hidden, cell)
            outputs[:, :, t - 1] = output
            token = output.argmax(1)
        return outputs

%%%
def train(model, iterator, optimizer, loss_fn, clip):
    model.train()
    epoch_loss = 0
    for src, trg in iterator:
        src, trg = src.to(device), trg.to(device)
        optimizer.zero_grad()
        output = model(src, trg)
        loss = loss_fn(output[:, :, :-1], trg[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        epoch_loss += loss.item()
    return epoch_loss / len(iterator)

def evaluate(model, iterator, loss_fn):
    model.eval()
    epoch_loss = 0
    with torch.no_grad():
        for src, trg in iterator:
            src, trg = src.to(device), trg.to(device)
            output = model(src, trg)
            epoch_loss += loss_fn(output[:, :, :-1], trg[:, 1:]).item()
    return epoch_loss / len(iterator)

%%%
emb_dim, hid_dim, clip, n_epochs = 256, 1024, 1.0, 20
n = len(dataset)
sizes = [int(n * 0.6), int(n * 0.2), n - int(n * 0.6) - int(n * 0.2)]
train_set, valid_set, test_set = random_split(dataset, sizes, torch.Generator().manual_seed(1234))
train_iter = DataLoader(train_set, batch_size=64, shuffle=True)
valid_iter, test_iter = DataLoader(valid_set, batch_size=64), DataLoader(test_set, batch_size=64)
model = LSTMSeq2Seq(dataset.input_lang.n_words, dataset.output_lang.n_words, emb_dim, hid_dim, device, 0.3).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loss_fn = nn.NLLLoss(ignore_index=PAD_IDX)

%%%
ppls, lrs = [], []
for epoch in range(n_epochs):
    train_loss = train(model, train_iter, optimizer, loss_fn, clip)
    valid_loss = evaluate(model, valid_iter, loss_fn)
    ppls.append(math.exp(valid_loss))
    lrs.append(optimizer.param_groups[0]['lr'])
    print(f'Epoch: {epoch + 1:02} | Train PPL: {math.exp(train_loss):7.3f} | Val. PPL: {math.exp(valid_loss):7.3f}')

%%%
plt.plot(ppls)
plt.plot(lrs)
plt.title('perplexity and learning rate')
plt.show()

%%%
test_loss = evaluate(model, test_iter, loss_fn)
print(f'Test PPL: {math.exp(test_loss):7.3f}')
"""

FREE_SEQ2SEQ = """
import torch
import torch.nn as nn

PAD = 2

%%%
class LSTMEncoder(nn.Module):
    def __init__(self, in_dim, emb_dim, hid_dim):
        super().__init__()
        self.emb = nn.Embedding(in_dim, emb_dim)
        self.net = nn.LSTM(emb_dim, hid_dim, batch_first=True)

    def forward(self, src, length):
        packed = nn.utils.rnn.pack_padded_sequence(self.emb(src), length, batch_first=True, enforce_sorted=False)
        out, (h, c) = self.net(packed)
        return nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=src.shape[1])[0], h, c

%%%
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

%%%
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

%%%
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

%%%
def evaluate(model, iterator, loss_fn):
    model.eval()
    with torch.no_grad():
        return sum(loss_fn(model(src, trg), trg).item() for src, trg in iterator) / len(iterator)
"""

VIT = """
import math
import torch
import torch.nn as nn
import torch.optim as optim
import torchvision
import torchvision.transforms as transforms
from tqdm.notebook import tqdm

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

%%%
class Patchification(nn.Module):
    def __init__(self, in_channels, patch_size, embedding_dim):
        super().__init__()
        conv = nn.Conv2d(in_channels, embedding_dim, kernel_size=patch_size, stride=patch_size)
        self.proj = nn.Sequential(conv, nn.Flatten(2))

    def forward(self, x):
        return self.proj(x).transpose(1, 2)

%%%
class MLP(nn.Module):
    def __init__(self, dim, hidden_dim, dropout=0.):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))

class Attention(nn.Module):
    def __init__(self, dim, num_heads, dropout=0.):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim ** 0.5
        self.keys = nn.Linear(dim, dim)
        self.queries = nn.Linear(dim, dim)
        self.values = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        B, N, D = x.shape
        K = self.keys(x).reshape(B, N, self.num_heads, self.head_dim).transpose(1, 2)
        Q = self.queries(x).reshape(B, N, self.num_heads, self.head_dim).transpose(1, 2)
        V = self.values(x).reshape(B, N, self.num_heads, self.head_dim).transpose(1, 2)
        attn = torch.softmax(torch.einsum('bhid,bhjd->bhij', Q, K) / self.scale, dim=-1)
        out = torch.einsum('bhij,bhjd->bhid', self.dropout(attn), V)
        return self.out(out.transpose(1, 2).reshape(B, N, D))

class Block(nn.Module):
    def __init__(self, dim, num_heads, mlp_dim, dropout=0.):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_dim, dropout)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x

class ViT(nn.Module):
    def __init__(self, image_shape, patch_size, num_classes, dim, num_heads, depth, mlp_dim, dropout=0.):
        super().__init__()
        channels, height, width = image_shape
        num_patches = (height // patch_size[0]) * (width // patch_size[1])
        self.patchify = Patchification(channels, patch_size, dim)
        self.pos_embedding = nn.Parameter(torch.zeros(1, num_patches + 1, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dropout = nn.Dropout(dropout)
        self.attention_blocks = nn.ModuleList([Block(dim, num_heads, mlp_dim, dropout) for _ in range(depth)])
        self.classification_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, x):
        x = self.patchify(x)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat((cls, x), dim=1)
        x = self.dropout(x + self.pos_embedding)
        for block in self.attention_blocks:
            x = block(x)
        return self.classification_head(x[:, 0])

%%%
transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
trainset = torchvision.datasets.CIFAR10(root='./data', train=True, download=True, transform=transform)
trainloader = torch.utils.data.DataLoader(trainset, batch_size=128, shuffle=True, num_workers=2)
testset = torchvision.datasets.CIFAR10(root='./data', train=False, download=True, transform=transforms.ToTensor())
testloader = torch.utils.data.DataLoader(testset, batch_size=128, shuffle=False, num_workers=2)

%%%
model = ViT((3, 32, 32), (4, 4), 10, 192, 6, 6, 384, 0.1).cuda()
criterion = nn.CrossEntropyLoss()
optimizer = optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(30):
    model.train()
    for x, y in tqdm(trainloader):
        optimizer.zero_grad()
        loss = criterion(model(x.to(device)), y.to(device))
        loss.backward()
        optimizer.step()
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in testloader:
            correct += (model(x.to(device)).argmax(1) == y.to(device)).sum().item()
    print('Epoch %d loss %.3f test accuracy: %.2f %%' % (epoch + 1, loss.item(), 100 * correct / len(testset)))
"""

RNN_LOG = """| epoch   1 | time 21.33s | train loss 1.390 | valid accuracy     41.2
| epoch   2 | time 21.01s | train loss 0.711 | valid accuracy     80.4
| epoch   3 | time 20.87s | train loss 0.402 | valid accuracy     89.1
"""

SEQ2SEQ_LOG = """Epoch: 01 | Train PPL:  61.870 | Val. PPL:  32.114
Epoch: 02 | Train PPL:  12.870 | Val. PPL:   9.114
Epoch: 03 | Train PPL:   4.870 | Val. PPL:   6.114
"""

VIT_LOG = """Epoch 1 loss 1.920 test accuracy: 41.20 %
Epoch 2 loss 1.520 test accuracy: 55.10 %
Epoch 3 loss 1.120 test accuracy: 71.85 %
"""

COURSE = {  # homework: source, cells joined by a line of percent signs; outputs, by the place of their cell
    "hw4_rnn": (RNN, {-1: RNN_LOG}),
    "hw4_seq2seq": (SEQ2SEQ, {-3: SEQ2SEQ_LOG, -2: "figure", -1: "Test PPL:   4.697"}),
    "hw4_vit": (VIT, {-1: VIT_LOG}),
    "free": (FREE_SEQ2SEQ, {}),
}
DEFINITIONS = {"hw4_rnn": 8, "hw4_seq2seq": 5, "hw4_vit": 3, "free": 6}  # cells before data loaders and training


def replaced(source: str, *edits: tuple[str, str]) -> str:
    """A source with some texts replaced; each must be there."""
    for old, new in edits:
        assert old in source, old
        source = source.replace(old, new)
    return source


def stream(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": text}


def figure(kind: str = "image/png") -> dict:
    return {"output_type": "display_data", "data": {kind: "iVBORw0KGgo="}, "metadata": {}}


def code(source: str, *outputs: dict) -> dict:
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "metadata": {}, "execution_count": 1}


def made(name: str, *edits: tuple[str, str], whole: bool = False, after: str = "") -> dict:
    """A notebook in the course's manner: its definitions, or the whole of it as a student hands it in."""
    source, outputs = COURSE[name]
    sources = replaced(source, *edits).strip().split("\n\n%%%\n")
    cells = [code(cell) for cell in sources]
    for place, text in outputs.items():
        cells[place]["outputs"] = [figure() if text == "figure" else stream(text)]
    if not whole:
        cells = cells[: DEFINITIONS[name]]
    if after:
        cells.append(code(after))
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


def written(name: str, *edits: tuple[str, str], **options) -> bytes:
    return json.dumps(made(name, *edits, **options)).encode()
