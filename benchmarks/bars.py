"""Seconds of training to the assignment's bar, with the notebooks' models and with reference layers in their place.

Both train with the notebook's own loop, options and batches; only the layers differ: packed ``nn.RNN`` with PyTorch's
embedding, dropout and linear map; the decoder's classifier called word by word; torchvision's encoder blocks. The
validation split tells when the bar is reached, and the clock stands still meanwhile.

Usage: python -m benchmarks.bars [--data sample|real|auto] [rnn] [seq2seq] [vit]
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import EncoderBlock

from benchmarks.bench import RESULTS, save
from benchmarks.measure import synchronize
from benchmarks.rows import DEVICE
from common import session
from data import ag_news, cifar10, eng_fra
from tools.notebooks import chosen, definitions

Race = tuple[Callable[[int], object], Callable[[], bool], int]  # train one part, is the bar reached, how many parts


def rnn(data: str, by_hand: bool) -> Race:
    notebook, news = definitions("hw4_rnn"), ag_news.load(data)
    notebook.tokenizer = notebook.get_tokenizer("basic_english")
    texts, validation = news.train[2_000:], news.train[:1_000]
    counts = notebook.Counter(word for _, text in texts for word in notebook.tokenizer(text))
    notebook.vocab = notebook.Vocab(counts, min_freq=2, specials=("<pad>", "<unk>"))

    class Layers(notebook.RNN):
        def __init__(self, *sizes: int):
            super().__init__(*sizes)
            self.layer = nn.RNN(sizes[1], sizes[2])
            nn.init.eye_(self.layer.weight_hh_l0)

        def forward(self, inputs: Tensor, length: Tensor) -> Tensor:
            x = F.dropout(F.embedding(inputs, self.embedding), self.dropout_ratio, self.training)
            x = F.dropout1d(x, self.word_dropout, self.training)
            packed = nn.utils.rnn.pack_padded_sequence(x, length.cpu(), enforce_sorted=False)
            return F.linear(self.layer(packed)[1][0], self.W_hy.T, self.b_hy).softmax(1)

    budget = notebook.BUDGETS[news.kind]
    model = (notebook.RNN if by_hand else Layers)(len(notebook.vocab), budget.input_size, budget.hidden_size, 4).to(
        DEVICE
    )
    slow = {"W_hh", "layer.weight_hh_l0"}
    groups = [[p for name, p in model.named_parameters() if (name in slow) is part] for part in (False, True)]
    optimizer = notebook.OPTIMIZERS["AdamW"](
        [{"params": groups[0]}, {"params": groups[1], "lr": 6e-3 * budget.recurrent_rate}], 6e-3
    )
    scheduler = notebook.ScheduledOptim(optimizer, 20, 1.0, budget.clip)
    batches = itertools.cycle(notebook.NewsBatches(texts, budget.batch_size, True, DEVICE))
    held = notebook.NewsBatches(validation, 500, False, DEVICE)
    return (
        lambda i: notebook.train(model, list(itertools.islice(batches, 10)), scheduler),
        lambda: notebook.evaluate(model, held)[1] > 70,
        100,
    )


def seq2seq(data: str, by_hand: bool) -> Race:
    notebook, file = definitions("hw4_seq2seq"), eng_fra.locate(data)
    notebook.input_lang, notebook.output_lang, notebook.pairs = notebook.prepareData(
        "eng", "fra", 10, reverse=True, folder=file.path.parent
    )
    notebook.device = DEVICE

    class WordByWord(notebook.LSTMSeq2Seq):
        def forward(self, src: Tensor, trg: Tensor) -> Tensor:
            (hidden, cell), columns = self.encode(src), []
            for t in range(1, trg.shape[1]):
                words = trg[:, t - 1 : t].clamp_min(0)
                log_probs, hidden, cell, _ = self.decoder(words, hidden, cell)
                columns.append(log_probs)
            return torch.stack([torch.zeros_like(columns[0]), *columns], 2)

    budget, split = notebook.BUDGETS[file.kind], notebook.split_pairs(len(notebook.pairs), 1234)
    sizes = (notebook.input_lang.n_words, notebook.output_lang.n_words, budget.emb_dim, budget.hid_dim, DEVICE)
    model = (notebook.LSTMSeq2Seq if by_hand else WordByWord)(*sizes, budget.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate, fused=by_hand)
    batches = itertools.cycle(notebook.batches(split[0], budget.batch_size, shuffle=True))
    held, loss = notebook.batches(split[1][:500]), notebook.translation_loss
    return (
        lambda i: notebook.train(model, list(itertools.islice(batches, 20)), optimizer, loss, budget.clip),
        lambda: notebook.perplexity(model, held) < 7,
        100,
    )


def vit(data: str, by_hand: bool) -> Race:
    notebook, images = definitions("hw4_vit"), cifar10.load(data)
    kind = "sample" if images.kind == "sample" else "gpu" if DEVICE.type == "cuda" else "cpu"
    (pictures, labels), parts = (part.to(DEVICE) for part in images.train), 9 * 8  # eight epochs at most
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    held, rest = order[: len(order) // 50], order[len(order) // 10 :]
    budget = replace(notebook.BUDGETS[kind], epochs=parts, full_epochs=0)
    model = notebook.build(budget)
    if not by_hand:
        norm = lambda width: nn.LayerNorm(width, eps=1e-5)  # noqa: E731
        model.attention_blocks = nn.Sequential(*(
            EncoderBlock(budget.num_heads, budget.dim, budget.mlp_dim, 0.0, 0.0, norm) for _ in range(budget.depth)
        ))  # fmt: skip
    optimizers, generator = notebook.make_optimizers(model.to(DEVICE), budget), torch.Generator().manual_seed(0)

    def train(i: int) -> None:
        part = rest.chunk(9)[i % 9]
        chunk, scaler = (pictures[part], labels[part]), notebook.make_scaler(DEVICE)
        notebook.train_epoch(model, chunk, optimizers, scaler, budget, i, generator)

    return train, lambda: notebook.evaluate(model, (pictures[held], labels[held]))[1] > 65, parts


MODELS = {"rnn": rnn, "seq2seq": seq2seq, "vit": vit}


def seconds_to_bar(race: Race) -> float:
    """Seconds of training until the bar is passed; infinite if it is not."""
    train, reached, parts = race
    spent = 0.0
    for i in range(parts):
        began = time.perf_counter()
        train(i)
        synchronize()
        spent += time.perf_counter() - began
        if reached():
            return spent
    return math.inf


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("auto", "real", "sample"), default="sample")
    parser.add_argument("models", nargs="*", metavar="model", help=f"by default {', '.join(MODELS)}")
    arguments = parser.parse_args()
    session.allow_fast_products()  # as the notebooks do
    lines = ["| notebook | ours, s | reference, s | ours / reference |", "| --- | --- | --- | --- |"]
    for name in chosen(parser, arguments.models, MODELS):
        taken = []
        for by_hand in (True, False):
            session.start(seed=1234)
            taken.append(seconds_to_bar(MODELS[name](arguments.data, by_hand)))
        lines.append(f"| {name} | {taken[0]:.1f} | {taken[1]:.1f} | **{taken[0] / taken[1]:.2f}** |")
        print(lines[-1], flush=True)
    title = f"Seconds of training to the bar, {arguments.data} data, {DEVICE.type}"
    save(RESULTS / f"bars-{arguments.data}-{DEVICE.type}.md", title, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
