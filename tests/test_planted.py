"""Faults planted in the notebooks: the checks that stand there in view notice them."""

import sys
from types import ModuleType

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import planted, read

from tools.notebooks import run_cell, tags

GIVEN = {  # what the check cells use of cells that are not run here
    "hw4_rnn": "",
    "hw4_seq2seq": """
from data.data import Lang
langs = Lang("fra"), Lang("eng")
for lang in langs:
    lang.addSentence("je suis grand et grande")
further = Further(min_frequency=1)
""",
    "hw4_vit": """
device, config = torch.device("cpu"), Config(dim=16, depth=2, num_heads=2, mlp_dim=8)
model = build(ViT, config, device)
nn.init.normal_(model.classification_head.weight)
batch = [torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)]
shapes = torch.randint(256, (CLASSES, 3, 32, 32), dtype=torch.uint8)
""",
}
CHECKS = {  # words of each check; where it goes on with data, words before which it is cut
    "recurrence": "tiny = tiny_network(Forward)",
    "loss": "model = RNN(20,",
    "training": ("optimizer = torch.optim.SGD([nn.Parameter", "\nmodel = RNN(len(vocab)"),
    "gradcheck": "lengths = [5, 4, 4, 2]",
    "fast RNN": "plain, fast = tiny_network(RNN)",
    "R-Drop": ("p, q = torch.tensor([[0.7", "\nlabel = torch.randint"),
    "positions": "assert valid_positions(tokens)",
    "dot attention": "query, states = torch.randn(2, 3)",
    "translation": "tiny = LSTMSeq2Seq(",
    "all steps": ("fast = FastSeq2Seq(in_dim=12", "\nwide = "),
    "subwords": "small = build_further(",
    "attention": "attention = Attention(dim=6",
    "block": "block, x = Block(",
    "ViT": "small = ViT((3, 8, 8)",
    "fast ViT": "fast = build(FastViT",
    "CutMix": "mixed = cutmix(shapes",
}


def run(name: str, notebook: nbformat.NotebookNode, *checks: str) -> None:
    """Execute the definitions of a notebook and these checks."""
    module = sys.modules[name] = ModuleType(name)
    torch.manual_seed(0)
    for number, cell in enumerate(notebook.cells):
        if "define" in tags(cell):
            run_cell(name, number, cell, module.__dict__)
    exec(GIVEN[name], module.__dict__)
    for check in checks:
        words, *end = CHECKS[check] if isinstance(CHECKS[check], tuple) else (CHECKS[check],)
        (cell,) = [nbformat.from_dict(c) for c in notebook.cells if c.cell_type == "code" and words in c.source]
        cell.source = cell.source.partition(end[0])[0] if end else cell.source
        run_cell(name, 1000, cell, module.__dict__)
    plt.close("all")


@pytest.mark.parametrize(
    ("name", "checks", "right", "wrong"),
    (
        ("hw4_rnn", ("recurrence",), "+ h @ self.W_hh + self.b_hh)", "+ 0 * h @ self.W_hh + self.b_hh)"),
        ("hw4_rnn", ("recurrence",), "[length - 1, torch.arange(B)]", "[(length - 2).clamp_min(0), torch.arange(B)]"),
        ("hw4_rnn", ("recurrence",), "[length - 1, torch.arange(B)]", "[0 * length - 1, torch.arange(B)]"),
        ("hw4_rnn", ("loss",), ".tiny).log().mean()", ".tiny).log().sum()"),
        ("hw4_rnn", ("training",), "return self.updates / self.n_warmup_steps", "return 1.0"),
        ("hw4_rnn", ("training",), "total_loss += loss.item() * len(label)", "total_loss += loss.item() * 5"),
        ("hw4_rnn", ("gradcheck",), "delta = 1 - states[1:] ** 2", "delta = 1 + states[1:] ** 2"),
        ("hw4_rnn", ("gradcheck",), "delta[t, n:] = 0  # padding", "pass"),
        (
            "hw4_rnn",
            ("gradcheck",),
            "return delta, grad_h, grad_W_hh, None",
            "return delta, 0 * grad_h, grad_W_hh, None",
        ),
        ("hw4_rnn", ("fast RNN",), "self.b_hy, dim=1)[original]", "self.b_hy, dim=1)[order]"),
        ("hw4_rnn", ("R-Drop",), ".sum(1).mean() / 2", ".sum(1).mean()"),
        ("hw4_seq2seq", ("positions",), "return (ends_before == 0) & (tokens != PAD)", "return tokens != PAD"),
        ("hw4_seq2seq", ("dot attention",), "scores = scores.masked_fill(~valid", "scores.masked_fill(~valid"),
        ("hw4_seq2seq", ("translation",), "[word, context.unsqueeze(1)], 2)", "[word, 0 * context.unsqueeze(1)], 2)"),
        (
            "hw4_seq2seq",
            ("translation", "all steps"),
            "m = f.sigmoid() * m + i.sigmoid() * g.tanh()",
            "m = i.sigmoid() * m + f.sigmoid() * g.tanh()",
        ),
        ("hw4_seq2seq", ("subwords",), "self.scale[flat] * self.vectors", "self.vectors"),
        ("hw4_vit", ("attention",), " / math.sqrt(query.shape[-1])", ""),
        ("hw4_vit", ("attention",), "scores.softmax(dim=-1)", "scores.softmax(dim=-2)"),
        (
            "hw4_vit",
            ("block",),
            "x + self.attention(self.attention_norm(x))",
            "self.attention_norm(x + self.attention(x))",
        ),
        ("hw4_vit", ("ViT",), "self.patchify(images)], dim=1) + self.pos_embedding", "self.patchify(images)], dim=1)"),
        ("hw4_vit", ("ViT",), "self.norm(tokens[:, 0])", "self.norm(tokens[:, -1])"),
        ("hw4_vit", ("fast ViT",), "x = x[:, :1] + block.attention", "x = block.attention"),
        ("hw4_vit", ("fast ViT",), ".argsort(dim=1)[:, :count]", "[:, :count].mul(N).long()"),
        ("hw4_vit", ("CutMix",), "1 - rows * columns / (height * width))", "0.6)"),
    ),
)
def test_the_notebooks_own_check_notices_a_fault(monkeypatch, name, checks, right, wrong):
    monkeypatch.setitem(sys.modules, name, None)  # put back afterwards
    run(name, read(name), *checks)
    with pytest.raises((AssertionError, RuntimeError)):
        run(name, planted(read(name), right, wrong), *checks)
