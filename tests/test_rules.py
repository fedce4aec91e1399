"""The rules: what a model is built of and calls, what a source mentions, what question 3 imports."""

import ast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grader import rules
from grader.rules import LOSS, RULES, foreign_imports, layer, mentions, violations
from grader.worker import Recorder


@pytest.mark.parametrize(
    ("name", "module", "forbidden"),
    (
        ("hw4_rnn", nn.Linear(2, 2), True), ("hw4_rnn", nn.RNN(2, 2), True), ("hw4_rnn", nn.Dropout(), True),
        ("hw4_rnn", nn.Embedding(2, 2), False), ("hw4_rnn", nn.Tanh(), False), ("hw4_rnn", nn.ParameterList(), False),
        ("hw4_seq2seq", nn.MultiheadAttention(2, 1), True), ("hw4_seq2seq", nn.LSTM(2, 2), False),
        ("hw4_vit", nn.Embedding(2, 2), True), ("hw4_vit", nn.TransformerEncoderLayer(2, 1), True),
        ("hw4_vit", type("Mine", (nn.Conv3d,), {})(1, 1, 1), True), ("hw4_vit", nn.Dropout2d(), False),
        ("hw4_vit", nn.LayerNorm(2), False), ("hw4_vit", nn.DataParallel(nn.Linear(1, 1)), False),
        ("hw4_vit", nn.CrossEntropyLoss(), False),
    ),
)  # fmt: skip
def test_layers_are_told_by_the_class_of_torch_behind_them(name, module, forbidden):
    assert bool(violations(RULES[name], [layer(type(module))], [])) == forbidden


@pytest.mark.parametrize(
    ("rule", "run", "called"),
    (
        (LOSS, lambda: F.cross_entropy(torch.zeros(1, 2), torch.tensor([0])), "cross_entropy"),
        (LOSS, lambda: nn.NLLLoss()(torch.zeros(1, 2), torch.tensor([0])), "nll_loss"),
        (RULES["hw4_rnn"], lambda: nn.Linear(2, 2)(torch.zeros(1, 2)), "linear"),
        (RULES["hw4_rnn"], lambda: torch.ops.aten.linear(torch.zeros(1, 2), torch.zeros(2, 2)), "linear"),
        (RULES["hw4_rnn"], lambda: nn.GRU(2, 2)(torch.zeros(1, 2)), "gru"),
        (RULES["hw4_vit"], lambda: F.scaled_dot_product_attention(*torch.zeros(3, 1, 2, 2)),
         "scaled_dot_product_attention"),
        (RULES["hw4_seq2seq"], lambda: nn.MultiheadAttention(2, 1)(*torch.zeros(3, 1, 2)),
         "multi_head_attention_forward"),
    ),
)  # fmt: skip
def test_a_forbidden_function_is_found_when_it_is_called_by_whatever_name(rule, run, called):
    with (recorder := Recorder()):
        run()
    assert f"{called} is called" in violations(rule, [], recorder.names)


def test_every_mention_is_found_with_its_cell_and_line():
    cells = {1: "from torch import nn", 4: "# nn.Linear\nloss = F.cross_entropy(p, y)\nnn.ParameterList()"}
    assert mentions(cells, "hw4_rnn") == [(4, 1, "nn.Linear"), (4, 2, "cross_entropy")]
    assert mentions({1: "from torch.nn import TransformerEncoder"}, "hw4_seq2seq") == [(1, 1, "TransformerEncoder")]
    assert mentions({1: "nn.Dropout(0.1)\nnn.LayerNorm(3)"}, "hw4_vit") == [(1, 1, "nn.Dropout")]


def test_imports_are_told_apart_by_whether_they_are_used():
    cells = {0: "import torch, pandas\nfrom torchvision import models", 2: "import timm\nfrom einops import rearrange"}
    cells[3] = "!pip install timm\nrearrange(x)"
    assert foreign_imports(cells) == ([(2, "einops")], [(2, "timm")])


def test_students_graded_at_once_are_parsed_one_after_the_other(monkeypatch):
    original, locked = ast.parse, []
    monkeypatch.setattr(ast, "parse", lambda *args: (locked.append(rules._parsing.locked()), original(*args))[1])
    foreign_imports({0: "import einops\neinops.x", 1: "%pip install x"})
    assert len(locked) >= 4 and all(locked)
