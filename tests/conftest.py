"""Loads the notebooks' definitions, so that tests call the very code that a reader sees, and grades them."""

import ast
import sys
import types
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from questions import QUESTIONS, Grade  # noqa: E402

from tools.notebooks import definitions, python  # noqa: E402

MODEL_CLASS = {"hw4_rnn": "RNN", "hw4_seq2seq": "LSTMSeq2Seq", "hw4_vit": "ViT"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--notebook", type=Path, help="grade this notebook instead of the committed ones")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "question(letter, part): the test decides over a question of the assignment")
    config.addinivalue_line("markers", "slow: the test takes minutes")
    config.addinivalue_line("markers", "browser: the test needs Chromium; run by make browser-test alone")
    config.grade = Grade()
    config.graded = dict.fromkeys(MODEL_CLASS)  # notebook -> another file to grade in its place
    if path := config.getoption("--notebook"):
        if not path.is_file():
            raise pytest.UsageError(f"no notebook at {str(path)!r}: give the path of an .ipynb file")
        config.graded = {which(path): path.resolve()}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--notebook"):  # nothing else is about that file
        asked = [
            item
            for item in items
            if any(QUESTIONS[mark.args[0]].notebook in config.graded for mark in item.iter_markers("question"))
        ]
        config.hook.pytest_deselected(items=[item for item in items if item not in asked])
        items[:] = asked


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = (yield).get_result()
    if (report.when == "call" and not report.skipped) or (report.when == "setup" and report.failed):
        for mark in item.iter_markers("question"):
            item.config.grade.add(*mark.args, item.name, report.passed)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.grade.passed or config.grade.failed:
        terminalreporter.section("what the assignment's questions earned")
        for line in config.grade.table(set(config.graded)):
            terminalreporter.write_line(line)


def which(path: Path) -> str:
    """The homework that a notebook belongs to, told by the class it defines."""
    try:
        source = "\n".join(python(cell) for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        classes = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}
    except Exception as error:
        raise pytest.UsageError(f"{path} cannot be read as a notebook ({type(error).__name__}: {error})") from error
    for name, model in MODEL_CLASS.items():
        if model in classes:
            return name
    raise pytest.UsageError(f"{path} defines none of the classes {', '.join(MODEL_CLASS.values())}")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / f"{name}.ipynb", as_version=4)


class Words(dict):
    """A vocabulary of the letters a to e, in every way that torchtext's versions offer one."""

    def __init__(self) -> None:
        super().__init__({word: i for i, word in enumerate(("<pad>", "<unk>", *"abcde"))})
        self.stoi, self.itos = self, list(self)

    def __missing__(self, word: str) -> int:
        return 1

    def __call__(self, words: list[str]) -> list[int]:
        return [self[word] for word in words]


@pytest.fixture(scope="session")
def rnn(request) -> types.ModuleType:
    from torchtext.data.utils import get_tokenizer

    module = definitions("hw4_rnn", request.config.graded.get("hw4_rnn"))
    module.tokenizer, module.vocab = get_tokenizer("basic_english"), Words()
    return module


@pytest.fixture(scope="session")
def seq2seq(request) -> types.ModuleType:
    return definitions("hw4_seq2seq", request.config.graded.get("hw4_seq2seq"))


@pytest.fixture(scope="session")
def vit(request) -> types.ModuleType:
    return definitions("hw4_vit", request.config.graded.get("hw4_vit"))


@pytest.fixture
def notebook(request) -> nbformat.NotebookNode:
    """The saved notebook that the test's first question belongs to."""
    name = QUESTIONS[request.node.get_closest_marker("question").args[0]].notebook
    return nbformat.read(request.config.graded.get(name) or ROOT / f"{name}.ipynb", as_version=4)
