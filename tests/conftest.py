"""Loads the notebooks' definitions, so that tests call the very code that a reader sees."""

import sys
import types
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / f"{name}.ipynb", as_version=4)


def definitions(name: str) -> types.ModuleType:
    """A module made of the notebook's cells tagged ``parameters`` or ``define``: no data, no training."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    for number, cell in enumerate(read(name).cells):
        if cell.cell_type == "code" and {"parameters", "define"} & set(cell.metadata.get("tags", [])):
            exec(compile(cell.source, f"{name}, cell {number}", "exec"), module.__dict__)
    return module


@pytest.fixture(scope="session")
def rnn() -> types.ModuleType:
    from torchtext.data.utils import get_tokenizer
    from torchtext.vocab import Counter, Vocab

    module = definitions("hw4_rnn")
    module.tokenizer = get_tokenizer("basic_english")
    module.vocab = Vocab(Counter("a a b b c c d d e e".split()), specials=("<pad>", "<unk>"))
    return module


@pytest.fixture(scope="session")
def seq2seq() -> types.ModuleType:
    return definitions("hw4_seq2seq")


@pytest.fixture(scope="session")
def vit() -> types.ModuleType:
    return definitions("hw4_vit")
