"""Loads the notebooks' definitions, so that tests call the very code that a reader sees."""

import re
import sys
import types
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.notebooks import definitions, read  # noqa: E402

FORBIDDEN = {  # by the handout; a grader may search a file for these words and give no points even for a comment
    "hw4_rnn": r"nn\.(RNN|LSTM|GRU|Linear|Embedding|Dropout)|CrossEntropyLoss|NLLLoss|F\.\w*(loss|cross_entropy)",
    "hw4_seq2seq": r"MultiheadAttention|nn\.Transformer|scaled_dot_product_attention",
    "hw4_vit": r"MultiheadAttention|nn\.Transformer|nn\.Dropout|scaled_dot_product_attention|timm\b",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: the test takes minutes")


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


__all__ = ["FORBIDDEN", "ROOT", "planted", "read"]
