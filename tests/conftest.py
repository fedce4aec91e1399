"""Loads the notebooks' definitions, so that tests call the very code that a reader sees."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from grader.sandbox import Sandbox  # noqa: E402
from tools.notebooks import definitions  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: the test takes minutes")
    config.addinivalue_line("markers", "browser: the test needs Chromium; run by make browser-test alone")


def read(name: str) -> nbformat.NotebookNode:
    """The saved notebook of that name."""
    return nbformat.read(ROOT / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """What the grader runs code in; its server, started with the first notebook, takes seconds."""
    box = Sandbox()
    yield box
    box.close()


@pytest.fixture(scope="session")
def rnn() -> types.ModuleType:
    return definitions("hw4_rnn")


@pytest.fixture(scope="session")
def seq2seq() -> types.ModuleType:
    return definitions("hw4_seq2seq")


@pytest.fixture(scope="session")
def vit() -> types.ModuleType:
    return definitions("hw4_vit")
