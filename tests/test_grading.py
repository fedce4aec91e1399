"""The grader: right notebooks keep their points, wrong ones lose those of what is wrong, hostile ones harm nobody."""

import io
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from made_notebooks import COURSE, written

from grader import runner, submissions
from grader.__main__ import grade_notebook
from grader.questions import OPEN, PASSED, QUESTIONS, WRONG, Finding, Grade
from grader.runner import Process, Student, examine, isolation_problem

FREE = "free"
HOMEWORK = {name: name for name in COURSE} | {FREE: "hw4_seq2seq"}
SAVED = ("1f", "2c", "3e")


class Forked(Process):
    """A worker without the sandbox and without importing torch once more, for notebooks of our own."""

    def __init__(self, isolated: bool):
        self.connection, theirs = socket.socketpair()
        self.folder, self.server = tempfile.mkdtemp(prefix="grader-"), SimpleNamespace(family=list)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                from grader import worker

                os.setsid()
                os.environ.update(HW4_DATA="sample", MPLBACKEND="Agg")
                worker.work(theirs, self.folder)
            finally:
                os._exit(1)
        theirs.close()

    def worked(self) -> tuple[bool, float]:
        return False, 0.0

    def end(self, died: bool = False) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.connection.close()
        shutil.rmtree(self.folder)


def judged(monkeypatch, name: str, letters: str, *edits: tuple[str, str], seconds: float = 6.0, **options) -> Grade:
    """The grade of a made notebook's definitions, in some questions."""
    monkeypatch.setattr(runner, "Process", Forked)
    notebook = submissions.parse(written(name, *edits, **options), "made")
    grade = Grade(HOMEWORK[name])
    examine(Student(notebook.code(), grade, seconds=seconds), letters.split())
    return grade


def lost(grade: Grade, letters: str) -> dict[str, str]:
    """What did not pass: question and part, and the outcome. Of parts that outputs decide, only what is decided."""
    decided = {(f.letter, f.part) for f in grade.findings}
    parts = [(letter, part) for letter in letters.split() for part in QUESTIONS[letter].parts]
    parts = [key for key in parts if key in decided or key[0] not in SAVED]
    outcomes = {f"{letter} {part}".strip(): grade.outcome(letter, part)[0] for letter, part in parts}
    return {name: outcome for name, outcome in outcomes.items() if outcome != PASSED}


def told(grade: Grade) -> str:
    return "\n".join(
        [*(f"{f.letter} {f.part}: {f.reason}" for f in grade.findings if f.reason), *map(str, grade.remarks)]
    )


# ------------------------------------------------------------------------------------ points


def test_the_questions_are_worth_what_the_assignment_says():
    worth = {letter: question.points for letter, question in QUESTIONS.items()}
    handout = {"1a": 3, "1b": 2, "1c": 10, "1d": 5, "1e": 5, "1f": 5, "2a": 10, "2b": 10, "2c": 10}
    assert worth == handout | {"3a": 5, "3b": 10, "3c": 10, "3d": 10, "3e": 5}


def test_what_is_wrong_costs_its_part_and_what_is_not_judged_gives_a_range():
    several = [Finding("3b", "several heads", PASSED), Finding("3b", "several heads", WRONG, "scale")]
    grade = Grade("hw4_vit", [Finding("3b", "one head", PASSED), *several, Finding("3a", "", OPEN, "form")])
    assert grade.earned("3b") == (5, 5) and grade.earned("3a") == (0, 5)
    assert grade.earned("3d") == (0, 10) and grade.outcome("3d", "tokens") == (OPEN, ["nothing was checked"])
    assert Grade.from_dict(json.loads(json.dumps(grade.to_dict()))) == grade


def test_a_finding_on_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="expected one of the parts"):
        Finding("3b", "two heads", PASSED)


# ------------------------------------------------------------------------------------ right


@pytest.mark.parametrize("name", ("hw4_rnn", "hw4_seq2seq", "hw4_vit"))
def test_our_notebooks_earn_every_point(name):
    isolated = not isolation_problem()
    notebook = submissions.parse((ROOT / f"{name}.ipynb").read_bytes(), name)
    grade = grade_notebook(notebook, name, isolated, seconds=2 * runner.LOAD_SECONDS)  # also on a slow machine
    assert lost(grade, " ".join(grade.letters())) == {}, told(grade)


NORM = """class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.scale * (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, unbiased=False)


class MLP(nn.Module)"""
FIRST = [  # tokens along the first axis everywhere
    ("return self.proj(x).transpose(1, 2)", "return self.proj(x).permute(2, 0, 1)"),
    ("B, N, D = x.shape", "x = x.transpose(0, 1); B, N, D = x.shape"),
    (
        "self.out(out.transpose(1, 2).reshape(B, N, D))",
        "self.out(out.transpose(1, 2).reshape(B, N, D)).transpose(0, 1)",
    ),
    ("cls = self.cls_token.expand(x.shape[0], -1, -1)", "cls = self.cls_token.expand(1, x.shape[1], -1)"),
    ("torch.cat((cls, x), dim=1)", "torch.cat((cls, x), dim=0)"),
    ("x + self.pos_embedding", "x + self.pos_embedding.transpose(0, 1)"),
    ("self.classification_head(x[:, 0])", "self.classification_head(x[0])"),
]
MAPS = """        self.keys = nn.Linear(dim, dim)
        self.queries = nn.Linear(dim, dim)
        self.values = nn.Linear(dim, dim)
"""
SPLIT = """        K = self.keys(x).reshape(B, N, self.num_heads, self.head_dim).transpose(1, 2)
        Q = self.queries(x).reshape(B, N, self.num_heads, self.head_dim).transpose(1, 2)
        V = self.values(x).reshape(B, N, self.num_heads, self.head_dim).transpose(1, 2)
"""
LUONG = [
    ("self.net = nn.LSTM(emb_dim + hid_dim, hid_dim, batch_first=True)\n        self.out = nn.Linear(hid_dim, out_dim)",
     "self.net = nn.LSTM(emb_dim, hid_dim, batch_first=True)\n        self.out = nn.Linear(2 * hid_dim, out_dim)"),
    ("        scores = (self.enc_hiddens * hidden[0].unsqueeze(1)).sum(2)\n",
     "        out, _ = self.net(self.drop(self.emb(input)), (hidden, cell))\n"
     "        scores = out @ self.enc_hiddens.transpose(1, 2)\n"),
    ("scores.masked_fill(self.mask, ", "scores.masked_fill(self.mask.unsqueeze(1), "),
    ("        context = (torch.softmax(scores, 1).unsqueeze(2) * self.enc_hiddens).sum(1, keepdim=True)\n"
     "        x = torch.cat([context, self.drop(self.emb(input))], 2)\n"
     "        out, (hidden, cell) = self.net(x, (hidden, cell))\n"
     "        return torch.log_softmax(self.out(out.squeeze(1)), 1), hidden, cell",
     "        context = torch.softmax(scores, 2) @ self.enc_hiddens\n"
     "        return torch.log_softmax(self.out(torch.cat([out, context], 2)), 2), hidden, cell"),
    ("        for t in range(1, trg.shape[1]):\n            out, hidden, cell = self.decoder(trg[:, t - 1 : t], hidden, cell)\n"
     "            columns.append(out)\n        return torch.stack(columns, 2)",
     "        out, _, _ = self.decoder(trg[:, :-1], hidden, cell)\n"
     "        return torch.cat([columns[0].unsqueeze(2), out.transpose(1, 2)], 2)"),
]  # fmt: skip
RIGHT = {  # what is unusual: homework, questions, edits of a made notebook
    "the course's RNN": ("hw4_rnn", "1a 1b 1c 1d 1e", []),
    "weights as (out, in)": ("hw4_rnn", "1b 1c", [
        ("(input_size, hidden_size), device", "(hidden_size, input_size), device"),
        ("(hidden_size, num_class), device", "(num_class, hidden_size), device"),
        ("self.W_xh) +", "self.W_xh.T) +"), ("self.W_hh) +", "self.W_hh.T) +"), ("self.W_hy) +", "self.W_hy.T) +")]),
    "h_0 at random always": ("hw4_rnn", "1c", [("torch.zeros(B, self", "torch.randn(B, self")]),
    "lengths clamped in forward": ("hw4_rnn", "1a 1c", [
        ("append(min(len(t), average))", "append(len(t))"), ("hiddens[length - 1", "hiddens[length.clamp(max=T) - 1")]),
    "a batch sorted by length": ("hw4_rnn", "1a", [
        ("    return text.to(DEVICE), label.to(DEVICE), length.to(DEVICE)",
         "    o = torch.argsort(length, descending=True)\n    return text[:, o], label[o], length[o]")]),
    "means of batch means": ("hw4_rnn", "1e", [
        ("total_loss / len(train_loader.dataset)", "total_loss / len(train_loader)"),
        ("total_loss / len(test_loader.dataset)", "total_loss / len(test_loader)")]),
    "modules for tanh and softmax": ("hw4_rnn", "1c", [
        ("torch.tanh(", "nn.Tanh()("), ("torch.softmax(logits, dim=-1)", "nn.Softmax(dim=-1)(logits)")]),
    "train asks for more": ("hw4_rnn", "1e", [("def train(model, train_loader, scheduler)", "def train(model, train_loader, scheduler, epoch, writer)")]),
    "forbidden names that never run": ("hw4_rnn", "1c 1d", [
        ("import time\n", "import nltk\nimport tensorboardX\nimport time\nfrom torch.nn import LSTM, CrossEntropyLoss\nprint(LSTM)\n"
         "def eval(m): return isinstance(m, torch.nn.GRU) and torch.nn.Linear(1, 1)\n")]),
    "the course's translation": ("hw4_seq2seq", "2a 2b 2c", []),
    "a free translation": (FREE, "2a 2b 2c", []),
    "scaled scores": (FREE, "2a", [("unsqueeze(1)).sum(2)", "unsqueeze(1)).sum(2) / hidden.shape[2] ** 0.5")]),
    "the whole target at once": (FREE, "2a 2b", LUONG),
    "the course's ViT": ("hw4_vit", "3a 3b 3c 3d", []),
    "eps of 1e-6, no bias": ("hw4_vit", "3c 3d", [("nn.LayerNorm(dim)", "nn.LayerNorm(dim, eps=1e-6, bias=False)")]),
    "norms without numbers": ("hw4_vit", "3c 3d", [("nn.LayerNorm(dim)", "nn.LayerNorm(dim, elementwise_affine=False)")]),
    "a norm by hand": ("hw4_vit", "3c 3d", [("class MLP(nn.Module)", NORM), ("nn.LayerNorm(dim)", "Norm(dim)")]),
    "class token written into zeros": ("hw4_vit", "3d", [
        ("x = torch.cat((cls, x), dim=1)", "z = torch.zeros(x.shape[0], x.shape[1] + 1, x.shape[2]).to(x)\n        z[:, :1] = cls\n"
         "        z[:, 1:] = x\n        x = z")]),
    "tokens first": ("hw4_vit", "3a 3b 3c 3d", FIRST),
    "a head's width of its own": ("hw4_vit", "3b", [
        ("self.head_dim = dim // num_heads", "self.head_dim = 16"), ("nn.Linear(dim, dim)", "nn.Linear(dim, num_heads * 16)"),
        ("self.out = nn.Linear(dim, num_heads * 16)", "self.out = nn.Linear(num_heads * 16, dim)"), ("reshape(B, N, D)", "reshape(B, N, -1)")]),
    "keys and values fused": ("hw4_vit", "3b", [
        (MAPS, "        self.q = nn.Linear(dim, dim)\n        self.kv = nn.Linear(dim, 2 * dim)\n"),
        (SPLIT, "        Q = self.q(x).reshape(B, N, self.num_heads, -1).transpose(1, 2)\n"
         "        K, V = self.kv(x).reshape(B, N, self.num_heads, -1, 2).permute(4, 0, 2, 1, 3)\n")]),
    "all three fused": ("hw4_vit", "3b", [
        (MAPS, "        self.qkv = nn.Linear(dim, 3 * dim)\n"),
        (SPLIT, "        V, Q, K = self.qkv(x).reshape(B, N, -1, 3, self.num_heads).permute(3, 0, 4, 1, 2)\n")]),
    "float32 alone": ("hw4_vit", "3a 3b 3c 3d", [
        ("return self.proj(x)", "return self.proj(x.float())"), ("B, N, D = x.shape", "x = x.float(); B, N, D = x.shape")]),
    "square images alone": ("hw4_vit", "3d", [("(height // patch_size[0]) * (width // patch_size[1])", "(height // patch_size[0]) ** 2")]),
    "more dropout, names, a branch": ("hw4_vit", "3a 3b 3c 3d", [
        ("self.proj = nn", "self.drop = nn.Dropout2d(0.1)\n        self.proj = nn"), ("import math\n", "import pandas\nfrom torchvision import models\n"
         "from torch.nn import MultiheadAttention\nif torch.cuda.device_count() > 1: net = nn.DataParallel(net)\n"), ("import torch\nimport torch.nn as nn\n", "")][:1]),
}  # fmt: skip


@pytest.mark.parametrize("what", RIGHT)
def test_what_the_assignment_leaves_open_costs_nothing(monkeypatch, what):
    name, letters, edits = RIGHT[what]
    grade = judged(monkeypatch, name, letters, *edits)
    assert lost(grade, letters) == {}, told(grade)


# ------------------------------------------------------------------------------------ wrong

RECURRENCE, LAST, PROBABLE = "1c recurrence", "1c each text's last word", "1c probabilities"
ATTENTION, EVERY, SOURCE, EARLIER = (
    "2a attention",
    "2b a prediction for every word",
    "2b from the source",
    "2b from earlier words alone",
)
TRAINING, HEAD = "2c train and evaluate", "3d class token's head"
BROKEN_B = {EVERY: WRONG, SOURCE: WRONG, EARLIER: WRONG}
THREAD = """box = []
        import threading
        thread = threading.Thread(target=lambda: box.append(nn.functional.linear(last, self.W_hy.T, self.b_hy[0])))
        thread.start(); thread.join(); logits = box[0]"""
MISTAKES = {  # what is wrong: homework, questions, what it costs, edits
    "padding with 1": ("hw4_rnn", "1a", {"1a": WRONG}, [("torch.zeros(average - len(t)", "torch.ones(average - len(t)")]),
    "labels of 1 to 4": ("hw4_rnn", "1a", {"1a": WRONG}, [("int(x) - 1", "int(x)")]),
    "a matrix too narrow": ("hw4_rnn", "1b", {"1b": WRONG}, [("(hidden_size, num_class), device", "(hidden_size, 2), device")]),
    "no tanh": ("hw4_rnn", "1c", {RECURRENCE: WRONG}, [("h = torch.tanh(", "h = (")]),
    "the last step is read": ("hw4_rnn", "1c", {LAST: WRONG}, [("hiddens[length - 1,", "hiddens[length * 0 - 1,")]),
    "logits": ("hw4_rnn", "1c", {PROBABLE: WRONG}, [("return torch.softmax(logits, dim=-1)", "return logits")]),
    "dropout always on": ("hw4_rnn", "1c", {RECURRENCE: WRONG}, [("if self.training and self", "if self")]),
    "a layer is built": ("hw4_rnn", "1c", {RECURRENCE: WRONG, LAST: WRONG, PROBABLE: WRONG},
                         [("self.init_parameters()\n", "self.init_parameters(); layers = [nn.Linear(2, 2)]\n")]),
    "a layer in a thread": ("hw4_rnn", "1c", {RECURRENCE: WRONG, LAST: WRONG, PROBABLE: WRONG},
                            [("logits = torch.matmul(last, self.W_hy) + self.b_hy", THREAD)]),
    "a loss of torch": ("hw4_rnn", "1d", {"1d loss": WRONG}, [
        ("loss = -torch.log(p + 1e-7).sum()", "loss = nn.NLLLoss(reduction='sum')(torch.log(prediction), label)")]),
    "hits over the wrong axis": ("hw4_rnn", "1d", {"1d correct predictions": WRONG}, [("prediction.argmax(1) == label", "prediction.argmax(0)[0] == label")]),
    "no eval()": ("hw4_rnn", "1e", {"1e evaluate": WRONG}, [("    model.eval()\n", "")]),
    "training in evaluation mode": ("hw4_rnn", "1e", {"1e train": WRONG}, [("    model.train()\n", "    model.eval()\n")]),
    "no zero_grad": ("hw4_rnn", "1e", {"1e train": WRONG}, [("        scheduler.zero_grad()\n", "")]),
    "no update": ("hw4_rnn", "1e", {"1e schedule": WRONG}, [("        scheduler.update()\n", "")]),
    "an accuracy of -7": ("hw4_rnn", "1e", {"1e evaluate": WRONG}, [("total_correct / len(test_loader.dataset) * 100", "-7")]),
    "an encoder without LSTM": (FREE, "2a", {"2a encoder": OPEN}, [
        ("out, (h, c) = self.net(packed)\n        return nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=src.shape[1])[0], h, c",
         "out = torch.tanh(self.emb(src).repeat(1, 1, 9)[:, :, : self.net.hidden_size].cumsum(1)); h = out[:, -1].unsqueeze(0)\n        return out, h, h")]),
    "no query": ("hw4_seq2seq", "2a", {ATTENTION: WRONG}, [("self.enc_hiddens, query)", "self.enc_hiddens, 0 * query)")]),
    "softmax over the sentences": ("hw4_seq2seq", "2a 2b", {ATTENTION: WRONG, SOURCE: WRONG}, [("F.softmax(scores, dim=1)", "F.softmax(scores, dim=0)")]),
    "no softmax": ("hw4_seq2seq", "2a", {ATTENTION: WRONG}, [("F.softmax(scores, dim=1)", "scores")]),
    "attention thrown away": ("hw4_seq2seq", "2a", {ATTENTION: WRONG}, [("        hidden = torch.tanh(self.fc", "        unused = torch.tanh(self.fc")]),
    "the word before is ignored": ("hw4_seq2seq", "2a", {"2a decoder": WRONG}, [("self.dropout(self.embedding(input))", "0 * self.dropout(self.embedding(input))")]),
    "dropout always on in the decoder": ("hw4_seq2seq", "2b", {EVERY: WRONG}, [("self.dropout(self.embedding(input))", "F.dropout(self.embedding(input), 0.5)")]),
    "probabilities": ("hw4_seq2seq", "2b", {EVERY: WRONG}, [("F.log_softmax(self.out", "F.softmax(self.out")]),
    "words that see themselves": (FREE, "2b", {EARLIER: WRONG}, [("trg[:, t - 1 : t]", "trg[:, t : t + 1]")]),
    "words that see themselves, from the first": (FREE, "2b", {EARLIER: WRONG}, [
        ("range(1, trg", "range(0, trg"), ("trg[:, t - 1 : t]", "trg[:, t : t + 1]"), ("dtype=hidden.dtype)]", "dtype=hidden.dtype)][1:]")]),
    "an unfinished whole": (FREE, "2a 2b", BROKEN_B, [("        length = (src == 1)", "        raise NotImplementedError\n        length = (src == 1)")]),
    "no clipping": ("hw4_seq2seq", "2c", {TRAINING: WRONG}, [("        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)\n", "")]),
    "a translation without eval()": ("hw4_seq2seq", "2c", {TRAINING: WRONG}, [("    model.eval()\n", "")]),
    "gradients piled up": ("hw4_seq2seq", "2c", {TRAINING: WRONG}, [("        optimizer.zero_grad()\n", "")]),
    "attention of torch": (FREE, "2a 2b", {"2a encoder": WRONG, ATTENTION: WRONG, "2a decoder": WRONG} | BROKEN_B, [
        ("self.mask = enc_hiddens, None", "self.mask = enc_hiddens, None\n        self.ready = nn.MultiheadAttention(hid_dim, 1)")]),
    "patches through GELU": ("hw4_vit", "3a", {"3a": WRONG}, [("nn.Sequential(conv, nn.Flatten(2))", "nn.Sequential(conv, nn.Flatten(2), nn.GELU())")]),
    "no scale": ("hw4_vit", "3b", {"3b one head": WRONG, "3b several heads": WRONG}, [("Q, K) / self.scale", "Q, K)")]),
    "one head whatever is asked for": ("hw4_vit", "3b", {"3b several heads": WRONG}, [("        self.num_heads = num_heads\n", "        num_heads = 1\n        self.num_heads = 1\n")]),
    "an unfinished MLP": ("hw4_vit", "3b 3c 3d", {"3c MLP": WRONG}, [("return self.dropout(self.fc2", "pass; return None and self.dropout(self.fc2")]),
    "ReLU": ("hw4_vit", "3c", {"3c MLP": WRONG}, [("nn.GELU()", "nn.ReLU()")]),
    "a second residual": ("hw4_vit", "3c", {"3c MLP": WRONG}, [("return self.dropout(self.fc2", "return x + self.dropout(self.fc2")]),
    "norm after attention": ("hw4_vit", "3c", {"3c attention path": WRONG}, [("x = x + self.attn(self.norm1(x))", "x = self.norm1(x + self.attn(x))")]),
    "no residual for the MLP": ("hw4_vit", "3c", {"3c MLP path": WRONG}, [("x = x + self.mlp(", "x = self.mlp(")]),
    "a frozen position": ("hw4_vit", "3d", {"3d tokens": WRONG}, [("torch.zeros(1, num_patches + 1, dim))", "torch.zeros(1, num_patches + 1, dim), requires_grad=False)")]),
    "one block again and again": ("hw4_vit", "3d", {"3d blocks": WRONG}, [("x = block(x)", "x = self.attention_blocks[0](x)")]),
    "mean of the tokens": ("hw4_vit", "3d", {HEAD: WRONG}, [("classification_head(x[:, 0])", "classification_head(x.mean(1))")]),
    "no last norm": ("hw4_vit", "3d", {HEAD: WRONG}, [("nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))", "nn.Linear(dim, num_classes)")]),
    "dropout in evaluation": ("hw4_vit", "3b", {"3b one head": WRONG, "3b several heads": WRONG}, [("self.dropout(attn)", "nn.functional.dropout(attn, 0.5)")]),
    "an encoder of torch": ("hw4_vit", "3a 3b 3c 3d", dict.fromkeys(
        ("3a", "3b one head", "3b several heads", "3c attention path", "3c MLP path", "3c MLP", "3d tokens", "3d blocks", HEAD), WRONG),
        [("self.out = nn.Linear(dim, dim)", "self.out = nn.Linear(dim, dim); self.other = nn.TransformerEncoderLayer(dim, num_heads)")]),
    "a package that is used": ("hw4_vit", "3a", {"3a": WRONG}, [("import math\n", "import math\nfrom einops import rearrange\ncut = lambda x: rearrange(x, 'b c -> c b')\n")]),
    "a package unknown": ("hw4_vit", "3a", {"3a": OPEN}, [("import math\n", "import math\ntry: import unheard_of\nexcept ImportError: unheard_of = None\nx = unheard_of\n")]),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_what_is_wrong_costs_its_part_and_no_other(monkeypatch, what):
    name, letters, cost, edits = MISTAKES[what]
    grade = judged(monkeypatch, name, letters, *edits)
    assert lost(grade, letters) == cost, told(grade)


# ------------------------------------------------------------------------------------ what cannot be judged


def test_what_could_not_be_defined_here_is_not_judged(monkeypatch):
    source = ("def collate_batch(batch):", "from unheard_of import decorate\n@decorate\ndef collate_batch(batch):")
    grade = judged(monkeypatch, "hw4_rnn", "1a", source)
    assert lost(grade, "1a") == {"1a": OPEN} and "unheard_of" in told(grade)


def test_a_process_that_ends_is_tried_again_and_then_not_judged(monkeypatch):
    edit = ("        return self.proj(x).transpose(1, 2)", "        import os; os._exit(0)")
    grade = judged(monkeypatch, "hw4_vit", "3a 3b", edit)
    assert lost(grade, "3a 3b") == {"3a": OPEN} and "did not survive" in told(grade)
    assert grade.earned("3a") == (0, 5) and grade.earned("3b") == (10, 10)


def test_a_training_is_cut_off_and_what_comes_after_it_still_runs(monkeypatch):
    endless = "while True:\n    try:\n        torch.zeros(9).sum()\n    except Exception:\n        pass\n"
    after = f"{endless}for t in iter(int, 1): pass\n[0 for t in iter(int, 1)]\nPatchification = Patchification"
    grade = judged(monkeypatch, "hw4_vit", "3a", after=after, seconds=1.0)
    assert lost(grade, "3a") == {} and told(grade).count("cut off") == 3


# ------------------------------------------------------------------------------------ the sandbox

SPY = """
import os, socket
def look(path):
    try: return os.listdir(path)
    except OSError as error: return str(error)
def reach(address, family):
    try: return socket.socket(family).connect(address)
    except OSError as error: return "refused"
class Spy(nn.Module):
    def forward(self, home, secret, port):
        seen = {name: look(name) for name in ("/", "/etc", "/home", "/root", "/tmp", "/run", home)}
        seen["secret"] = os.path.exists(secret)
        seen["network"] = reach(("127.0.0.1", port), socket.AF_INET)
        seen["processes"] = [name for name in os.listdir("/proc") if name.isdigit()]
        seen["environment"] = sorted(os.environ)
        return seen
"""


@pytest.fixture
def isolated():
    if problem := isolation_problem():
        pytest.skip(problem)


def test_a_notebook_sees_nothing_of_the_machine(isolated, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    (tmp_path / "secret").write_text("secret")
    student = Student(submissions.parse(written("hw4_vit", after=SPY), "made").code(), Grade("hw4_vit"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        try:
            student.ask("build", key="spy", kind="Spy", args=[])
            port = server.getsockname()[1]
            seen = student.call("spy", str(tmp_path), str(tmp_path / "secret"), port)["value"]
        finally:
            student.end()
    assert seen["secret"] is False and seen["network"] == "refused" and "SECRET_TOKEN" not in seen["environment"]
    python = {Path(place).parts[1] for place in (sys.prefix, sys.base_prefix)}  # wherever it is installed
    assert set(seen["/"]) <= {*"bin dev etc lib lib32 lib64 sbin proc tmp usr grader notebook".split(), *python}
    assert set(seen["/etc"]) <= {"alternatives", "fonts", "ld.so.cache"} and len(seen["processes"]) <= 3
    assert not seen["/tmp"] and isinstance(seen["/run"], str) and isinstance(seen[str(tmp_path)], str)


@pytest.mark.parametrize(
    ("after", "shared"),
    (
        ("open('left', 'w')", True),
        ("open('/tmp/left', 'w')", False),
        ("open('/dev/shm/left', 'w')", False),
        ("import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)", False),
    ),
)
def test_notebooks_share_the_imports_and_nothing_else(isolated, after, shared):
    for extra in (after, SPY):
        code = submissions.parse(written("hw4_vit", after=extra), "made").code()
        student = Student(code, Grade("hw4_vit"))
        student.start()
        if extra is SPY:
            student.ask("build", key="spy", kind="Spy", args=[])
            seen = student.call("spy", "/notebook", "/notebook/left", 9)["value"]
            assert seen["secret"] is False and len(seen["processes"]) <= 4
        server = student.process.server
        student.end()
        assert (server in runner._idle) is (shared or extra is SPY)
    server.end()
    runner._idle.remove(server)


HOSTILE = """
import os, shutil, sys, torch
for stream in (sys.stdout, sys.stderr):
    for _ in range(200): print("x" * 100_000, file=stream)
hoard = [bytearray(1 << 28) for _ in range(100)]
shutil.rmtree("/notebook", ignore_errors=True); shutil.rmtree("/usr", ignore_errors=True)
os.kill(-1, 9)
torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True
sys.exit(0)
os.write(3, b'x' * 4096); os._exit(0)
import threading; [threading.Thread(target=lambda: [os.fork() for _ in range(200)]).start() for _ in range(3)]
"""


def test_a_hostile_notebook_harms_nobody_and_its_sound_code_is_still_judged(isolated):
    notebook = submissions.parse(written("hw4_vit", whole=True, after=HOSTILE), "made")
    grade = grade_notebook(notebook, "hw4_vit", seconds=3)
    assert lost(grade, "3a 3b 3c 3d 3e") == {}, told(grade)


def test_too_much_memory_of_all_processes_together_ends_them(isolated, monkeypatch):
    monkeypatch.setattr(runner, "MEMORY", 2 << 30)
    process, hoard = Process(True), "x = bytearray(b'x') * (5 << 29)\nwhile True: pass"
    try:
        process.answer(100)
        for request in ({"ask": "load", "cells": {"0": hoard}}, {"ask": "run", "at": "0.0", "seconds": None}):
            runner.wire.send(process.connection, request)
            with pytest.raises(runner.Died, match=r"use .* MB") if request["ask"] == "run" else nullcontext():
                process.answer(100)
    finally:
        process.end(died=True)


def test_where_bubblewrap_is_missing_or_refused_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in isolation_problem()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho no permission >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    assert "no permission" in isolation_problem()


@pytest.mark.parametrize("value", (float("inf"), "\ud800 text", [1, {"a": (2, None)}], {"deep": [[[]]]}))
def test_messages_carry_plain_values(value):
    data = runner.wire.encode(value)
    assert data and isinstance(data, bytes)


def test_messages_carry_tensors_and_refuse_what_is_too_long_or_pickled():
    sent = {"x": torch.randn(2, 3), "y": [torch.arange(4), torch.tensor(True)], "z": torch.zeros(0, 2)}
    mine, theirs = socket.socketpair()
    runner.wire.send(theirs, sent)
    found = runner.wire.receive(mine)
    assert (
        torch.equal(found["x"], sent["x"]) and torch.equal(found["y"][0], sent["y"][0]) and found["z"].shape == (0, 2)
    )
    with pytest.raises(ValueError, match="expected at most"):
        runner.wire.encode(torch.zeros(5 << 20, dtype=torch.float64))
    theirs.sendall((1 << 30).to_bytes(4, "big") * 2)
    with pytest.raises(ValueError, match="expected at most"):
        runner.wire.receive(mine)
    np.savez(body := io.BytesIO(), float32=np.array([ValueError], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        runner.wire.decode(b'{"t": ["float32", [1]]}', body.getvalue())
