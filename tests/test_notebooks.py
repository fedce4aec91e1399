"""The committed notebooks: rules of the assignment, and outputs that belong to the code above them."""

import ast
import json
import re

import nbformat
import pytest
from conftest import ROOT, read

from tools.notebooks import EMPTIED, TASKS, clean, code_hash, tags

NOTEBOOKS = tuple(TASKS)
LOSS_NAMES = r"\w+Loss\b|(F|functional)\.\w*(loss|cross_entropy)"
LAYERS = r"RNN|LSTM|GRU|Linear|Embedding|Dropout"
FORBIDDEN = {  # what the assignment does not allow, anywhere in the notebook's code or text
    "hw4_rnn": rf"nn\.({LAYERS})|import\b.*\b({LAYERS})|{LOSS_NAMES}",
    "hw4_seq2seq": r"MultiheadAttention|nn\.Transformer|scaled_dot_product_attention",
    "hw4_vit": r"MultiheadAttention|nn\.Transformer|nn\.Dropout|scaled_dot_product|torchvision\.models|timm|"
    + LOSS_NAMES,
}
ALLOWED_IMPORTS = {
    "torch", "torchvision", "torchtext", "tensorboard", "matplotlib", "numpy", "tqdm", "common", "data",
    "collections", "dataclasses", "difflib", "importlib", "itertools", "math", "os", "pathlib", "subprocess", "sys",
}  # fmt: skip


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def python(cell) -> ast.Module:
    """The cell without its IPython magics."""
    return ast.parse("\n".join("" if line.startswith("%") else line for line in cell.source.splitlines()))


def result_of(name) -> dict:
    lines = [
        line
        for cell in code_cells(name)
        for output in cell.outputs
        for line in output.get("text", "").splitlines()
        if line.startswith("RESULT ")
    ]
    assert len(lines) == 1, f"{name} states {len(lines)} results"
    return json.loads(lines[0].removeprefix("RESULT "))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_forbidden_name_appears_anywhere(name):
    for number, cell in enumerate(read(name).cells):
        for line in cell.source.splitlines():
            assert not re.search(FORBIDDEN[name], line), f"{name}, cell {number}: {line}"


@pytest.mark.parametrize(
    ("name", "line"),
    (
        ("hw4_rnn", "layer = nn.RNN(3, 4)"),
        ("hw4_rnn", "from torch.nn import Linear"),
        ("hw4_rnn", "loss = F.cross_entropy(p, y)"),
        ("hw4_rnn", "criterion = nn.CrossEntropyLoss()"),
        ("hw4_vit", "nn.MultiheadAttention(8, 2)"),
        ("hw4_vit", "x = F.scaled_dot_product_attention(q, k, v)"),
        ("hw4_seq2seq", "nn.Transformer()"),
    ),
)
def test_the_rule_itself_rejects_what_is_forbidden(name, line):
    assert re.search(FORBIDDEN[name], line)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_only_the_allowed_packages_are_imported(name):
    for cell in code_cells(name):
        for node in ast.walk(python(cell)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {m.split(".")[0] for m in modules} <= ALLOWED_IMPORTS


def test_the_setup_cell_is_short_and_the_same_in_all_three():
    cells = {code_cells(name)[0].source for name in NOTEBOOKS}
    assert len(cells) == 1 and len(cells.pop().splitlines()) <= 20


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_colab_gives_a_gpu(name):
    assert read(name).metadata["accelerator"] == "GPU"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_saved_outputs_belong_to_the_code_above_them(name):
    assert read(name).metadata["hw4"]["code_sha256"] == code_hash(read(name))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_changed_character_of_code_makes_the_outputs_stale(name):
    notebook = read(name)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.source = cell.source.replace("a", "b", 1)
    assert notebook.metadata["hw4"]["code_sha256"] != code_hash(notebook)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_were_run_in_order_without_errors_or_warnings(name):
    cells = code_cells(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"Warning|Traceback|it/s|/(home|root|work|tmp|content)/", text), text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_data_is_published_and_the_file_is_small(name):
    assert all(not cell.outputs for cell in code_cells(name) if tags(cell) & EMPTIED)
    assert any("shows-data" in tags(cell) for cell in code_cells(name))
    assert (ROOT / f"{name}.ipynb").stat().st_size < 1_000_000


@pytest.mark.parametrize(("name", "bar"), (("hw4_rnn", 70.0), ("hw4_seq2seq", 7.0), ("hw4_vit", 65.0)))
def test_the_saved_result_meets_the_bar_on_real_data(name, bar):
    result = result_of(name)
    assert result["data"] == "real" and result["bar"] == bar and result["passed"] is True
    assert result["value"] < bar if name == "hw4_seq2seq" else result["value"] > bar
    assert result["test_size"] == {"hw4_rnn": 7_600, "hw4_seq2seq": result["test_size"], "hw4_vit": 10_000}[name]


def test_cleaning_for_publication_keeps_results_and_drops_data_and_progress_bars():
    def cell(tag, *texts):
        outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in texts]
        return nbformat.v4.new_code_cell("1", metadata={"tags": [tag], "papermill": {}}, outputs=outputs)

    notebook = nbformat.v4.new_notebook(cells=[
        cell("define", ("stdout", "RESULT"), ("stderr", "100 it/s")), cell("shows-data", ("stdout", "a sentence")),
    ])  # fmt: skip
    clean(notebook, publish=True)
    assert [[o.text for o in c.outputs] for c in notebook.cells] == [["RESULT"], []]
    assert notebook.metadata["hw4"]["code_sha256"] == code_hash(notebook)
    assert notebook.cells[0].metadata == {"tags": ["define"]}
