"""Loads the notebooks' definitions, so that tests call the very code that a reader sees."""

import functools
import os
import re
import sys
import types
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data import download, samples  # noqa: E402
from tools.notebooks import definitions, read, run_cell, tags  # noqa: E402

FORBIDDEN = {  # by the handout; a grader may search a file for these words and give no points even for a comment
    "hw4_rnn": r"nn\.(RNN|LSTM|GRU|Linear|Embedding|Dropout)|CrossEntropyLoss|NLLLoss|F\.\w*(loss|cross_entropy)",
    "hw4_seq2seq": r"MultiheadAttention|nn\.Transformer|scaled_dot_product_attention",
    "hw4_vit": r"MultiheadAttention|nn\.Transformer|nn\.Dropout|scaled_dot_product_attention|timm\b",
}

SIZES = {  # of the generated samples
    "news": {"train_size": 120, "test_size": 20},
    "sentence_pairs": {"count": 120},
    "images": {"train_size": 120, "test_size": 20},
}
SMALL = {
    "hw4_rnn": "BATCH_SIZE=20 VALIDATION=20 INPUT_SIZE=4 HIDDEN_SIZE=4 SEARCH_TEXTS=20 SEARCH_EPOCHS=1 EPOCHS=2 "
    "FURTHER_INPUT_SIZE=4 FURTHER_HIDDEN_SIZE=4 FURTHER_EPOCHS=1 FURTHER_ABLATION_TEXTS=20",
    "hw4_seq2seq": "EMB_DIM=32 HID_DIM=32 EPOCHS=2 FURTHER_EMB_DIM=8 FURTHER_HID_DIM=8 FURTHER_EPOCHS=1 "
    "FURTHER_PRETRAINING_EPOCHS=1 FURTHER_ABLATION_DIM=4 FURTHER_ABLATION_EPOCHS=1",
    "hw4_vit": "DIM=16 DEPTH=1 NUM_HEADS=2 MLP_DIM=8 PATCH_SIZE=16 BATCH_SIZE=50 EPOCHS=2 FURTHER_EPOCHS=1 "
    "FURTHER_BATCH_SIZE=50 FURTHER_ABLATION_IMAGES=50",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: the test takes minutes")
    for name in [name for name in os.environ if name.startswith("HW4_")]:  # the user's own settings
        del os.environ[name]
    os.environ["no_proxy"] = "*"  # the servers of the tests are here
    matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def precision():
    """A test that starts a notebook's session leaves the precision of matrix products as it was."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def planted(notebook: nbformat.NotebookNode, right: str, wrong: str) -> nbformat.NotebookNode:
    """The notebook with a fault: ``wrong`` in place of ``right``, which stands in one code cell, spaces aside."""
    pattern = r"\s+".join(map(re.escape, right.split()))
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and re.search(pattern, cell.source)]
    assert len(cells) == 1, f"{right!r} stands in {len(cells)} cells: plant this fault elsewhere"
    cells[0].source = re.sub(pattern, lambda _: wrong, cells[0].source)
    return notebook


@pytest.fixture(scope="session")
def rnn() -> types.ModuleType:
    return definitions("hw4_rnn")


@pytest.fixture(scope="session")
def seq2seq() -> types.ModuleType:
    return definitions("hw4_seq2seq")


@pytest.fixture(scope="session")
def vit() -> types.ModuleType:
    return definitions("hw4_vit")


@pytest.fixture
def run_cells(tmp_path, monkeypatch):
    """Executes a notebook's cells, up to the first that trains or all of them; returns what they made."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(download, "CACHE", tmp_path / "cache")
    for function, sizes in SIZES.items():
        monkeypatch.setattr(samples, function, functools.partial(getattr(samples, function), **sizes))

    def execute(name: str, notebook: nbformat.NotebookNode, *, whole: bool) -> dict:
        settings = f"DATA=sample RUNS={tmp_path / 'runs'} {SMALL[name]}"
        for setting in settings.split():
            monkeypatch.setenv("HW4_" + setting.split("=")[0], setting.split("=")[1])
        monkeypatch.setitem(sys.modules, name, module := types.ModuleType(name))
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                run_cell(name, number, cell, module.__dict__)
                if "train" in tags(cell) and not whole:
                    break
        return module.__dict__

    yield execute
    plt.close("all")
    torch.use_deterministic_algorithms(False)


__all__ = ["FORBIDDEN", "ROOT", "planted", "read"]
