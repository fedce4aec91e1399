"""The rules reject what the assignment forbids, with cell and line, and accept what it allows."""

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

from grader.rules import (
    OURS,
    RULES,
    call_violations,
    functions_called,
    module_violations,
    modules_of,
    source_violations,
)

BAD = {  # homework: cells (joined by a line of dashes) whose last line is forbidden
    "hw4_rnn": (
        "from torch import nn\nlayer = nn.RNN(3, 4)",
        "import torch.nn as layers\nlayers.Linear(3, 4)",
        "from torch.nn import LSTM as Cell",
        "import torch\n---\nx = torch.nn.Bilinear(3, 4, 5)",
        "from torch import nn\nparts = nn.modules\nparts.GRU(3, 4)",
        "from torch import nn\nlayer = getattr(nn, 'Linear')",
        "from torch import nn\nlayer = getattr(nn, 'Lin' + 'ear')",
        "from torch import nn\nlayer = nn.__dict__['Dropout']",
        "from torch import nn\nlayer = vars(nn)['Dropout']",
        "import importlib\nlayer = importlib.import_module('torch.nn').Linear",
        "from torch.nn import *",
        "import torch.nn.functional as F\nloss = F.cross_entropy(p, y)",
        "from torch.nn.functional import nll_loss as error",
        "from torch import nn\ncriterion = nn.CrossEntropyLoss()",
        "import torch\nh = torch.rnn_tanh(x, h)",
        "import torch\nh = torch._VF.lstm(x, h)",
        "import torch\nx = torch.ops.aten.linear(x, w)",
        "import torch\nx = torch.dropout(x, 0.5, True)",
        "eval('torch.nn.Linear(3, 4)')",
        "import skorch",
        "import torch\nn: object = torch.nn\nlayer = n.Linear(3, 4)",
        "import torch\nlayer = (n := torch.nn).Linear(3, 4)",
        "import torch\n(n,) = (torch.nn,)",
        "import torch\nfor n in [torch.nn]: n.Linear(3, 4)",
        "import torch\ndef f(n=torch.nn): return n.Linear(3, 4)",
        "import torch\nf = lambda n=torch.nn: n.Linear(3, 4)",
        "import torch\nclass Layers: n = torch.nn",
        "import torch, operator\nlayer = operator.attrgetter('nn.Linear')(torch)",
        "import torch.nn.functional as F\nloss = F.__dict__.get('cross_entropy')",
        "import torch\nself.n = torch.nn",
        "import torch, sys\nlayer = sys.modules['torch.nn'].Linear",
        "import torch\nlayers = [n.Linear for n in (torch.nn,)]",
        "import torch\nmake = {'n': torch.nn}",
    ),
    "hw4_seq2seq": (
        "from torch import nn\nlayer = nn.MultiheadAttention(8, 2)",
        "from torch import nn\nmodel = nn.Transformer()",
        "import torch.nn.functional as F\nx = F.scaled_dot_product_attention(q, k, v)",
        "import transformers",
    ),
    "hw4_vit": (
        "from torch import nn\nlayer = nn.MultiheadAttention(8, 2)",
        "from torch import nn\nlayer = nn.TransformerEncoderLayer(8, 2)",
        "from torch import nn\nlayer = nn.Embedding(3, 4)",
        "from torch import nn\nlayer = nn.Unfold(4)",
        "from torch import nn\nclass Patches(nn.Conv3d):\n    pass",
        "from torch.nn.functional import scaled_dot_product_attention",
        "import torchvision\nmodel = torchvision.models.vit_b_16()",
        "from torchvision.ops import MLP",
        "import timm",
    ),
}
LEGAL = {
    "hw4_rnn": (
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        self.w = nn.Parameter(x)",
        "from torch import nn\nnn.init.orthogonal_(w)\nnn.utils.clip_grad_norm_(p, 1.0)",
        "import torch.nn.functional as F\nx = F.pad(F.one_hot(x), (0, 1))",
        "# nn.RNN would be forbidden\ntitle = 'nn.Linear and nn.CrossEntropyLoss'",
        "class Linear:\n    pass\nlayer = Linear()",
        "%load_ext tensorboard\n!ls\nfrom google.colab import drive",
        "from torch.optim.lr_scheduler import LinearLR",
        "from common.loss import cross_entropy\nloss = cross_entropy(p, y)",
        "from torch import nn\nself.embedding = nn.Embedding(3, 4)",  # the skeleton's
        "import contextlib, abc, logging, statistics, pandas",
        "import torch\noptimizer = getattr(torch.optim, name)(parameters)\nhasattr(torch, 'compile')",
        "import torch.nn.functional as F\ndef f(x):\n    B, T, F = x.shape\n    return F",
        "x = (7\n% x)",
    ),
    "hw4_seq2seq": ("from torch import nn\nlayers = nn.LSTM(3, 4), nn.Embedding(3, 4), nn.Dropout(0.5), nn.NLLLoss()",),
    "hw4_vit": (
        "from torch import nn\nlayers = nn.Conv2d(3, 4, 2), nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(3)",
        "import torchvision.transforms as T\nfrom torchvision.datasets import CIFAR10",
        "from torch import nn\ncriterion, self.dropout = nn.CrossEntropyLoss(), nn.Dropout(0.1)",  # the harness's
    ),
}


def cases(table):
    return [(name, source) for name, sources in table.items() for source in sources]


def cells_of(source):
    """Cells are joined by a line of dashes; a title stands above them."""
    return dict(enumerate(source.split("\n---\n"), 1))


@pytest.mark.parametrize(("name", "source"), cases(BAD))
def test_a_forbidden_use_is_found_with_its_cell_and_line(name, source):
    cells = cells_of(source)
    found = source_violations(cells, RULES[name])
    lines = len(cells[len(cells)].splitlines()) - ("pass" in source)
    assert found and (found[-1].cell, found[-1].line) == (len(cells), lines)
    assert f"cell {len(cells)}, line {lines}: " in str(found[-1])


def test_a_name_that_is_bound_after_the_function_that_uses_it_is_followed():
    found = source_violations({1: "import torch\ndef f(): return n.Linear(3, 4)", 2: "n = torch.nn"}, RULES["hw4_rnn"])
    assert [(v.cell, v.line) for v in found] == [(1, 2)]


@pytest.mark.parametrize(("name", "source"), cases(LEGAL))
def test_a_legal_use_is_accepted(name, source):
    assert source_violations(cells_of(source), RULES[name]) == []


@pytest.mark.parametrize(
    ("name", "source"),
    (
        ("hw4_rnn", "from torch import nn\nx = nn.Embedding(3, 4)"), ("hw4_rnn", "import pandas"),
        ("hw4_vit", "from torch import nn\nx = nn.Dropout(0.1)"), ("hw4_vit", "from torch import nn\nnn.NLLLoss()"),
    ),
)  # fmt: skip
def test_our_notebooks_keep_to_the_letter(name, source):
    assert source_violations(cells_of(source), OURS[name])


def test_losses_are_told_from_layers():
    source = "from torch import nn\nnn.CrossEntropyLoss()\nnn.Linear(2, 2)\nnn.functional.nll_loss"
    assert [v.is_loss for v in source_violations(cells_of(source), RULES["hw4_rnn"])] == [True, False, True]


@pytest.mark.parametrize(
    ("name", "layer"),
    (
        ("hw4_rnn", nn.Linear(2, 2)), ("hw4_rnn", nn.RNN(2, 2)), ("hw4_rnn", nn.Dropout()),
        ("hw4_seq2seq", nn.MultiheadAttention(2, 1)), ("hw4_vit", nn.Embedding(2, 2)),
        ("hw4_vit", nn.TransformerEncoderLayer(2, 1)),
    ),
)  # fmt: skip
def test_a_forbidden_layer_is_found_in_a_built_model_however_it_got_there(name, layer):
    model = nn.Module()
    model.hidden = layer
    assert f"hidden is a {type(layer).__name__}" in module_violations(modules_of(model), RULES[name])


@pytest.mark.parametrize(
    ("name", "run", "called"),
    (
        ("hw4_rnn", lambda: F.cross_entropy(torch.zeros(1, 2), torch.tensor([0])), "cross_entropy"),
        ("hw4_rnn", lambda: nn.Linear(2, 2)(torch.zeros(1, 2)), "linear"),
        ("hw4_rnn", lambda: nn.CrossEntropyLoss()(torch.zeros(1, 2), torch.tensor([0])), "cross_entropy"),
        ("hw4_vit", lambda: F.scaled_dot_product_attention(*torch.zeros(3, 1, 2, 2)), "scaled_dot_product_attention"),
        ("hw4_seq2seq", lambda: nn.MultiheadAttention(2, 1)(*torch.zeros(3, 1, 2)), "multi_head_attention_forward"),
    ),
)
def test_a_forbidden_function_is_found_when_it_is_called_by_whatever_name(name, run, called):
    assert called in call_violations(functions_called(run), RULES[name])


def test_the_packages_behind_the_notebooks_keep_their_rules_too():
    for path in [*(ROOT / "common").glob("*.py"), *(ROOT / "data").glob("*.py")]:
        for name, rule in RULES.items():
            found = source_violations({1: path.read_text()}, rule)
            assert [str(v) for v in found if "import of" not in v.what] == [], f"{path.name} under the rules of {name}"
