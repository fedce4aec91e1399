"""The saved notebooks: results beyond the targets, outputs that belong to the code, and form."""

import ast
import re

import nbformat
import pytest
from PIL import Image

from tools import overview
from tools.globals import global_reads, needed_cells
from tools.notebooks import EMPTIED, ROOT, TASKS, clean, fingerprint, printed, python, read, results, tags

NOTEBOOKS = tuple(TASKS)
TESTED = {"hw4_rnn": 7_600, "hw4_seq2seq": 2_000, "hw4_vit": 10_000}  # size of the test set, at least


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def notebook_of(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


# ------------------------------------------------------------------------------------ results


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_one_saved_result_is_on_real_data_and_beyond_its_target(name):
    (result,) = results(read(name))
    value, target = result["value"], result["target"]
    assert result["data"] == "real" and result["test_size"] >= TESTED[name] and result["passed"]
    assert 1 < value < target == 7 if "perplexity" in result["metric"] else 100 > value > target


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_readme_and_title_state_the_saved_result(name):
    (result,) = results(read(name))
    value = f"{result['value']:.2f}"
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if f"{name}.ipynb" in line and value in line]
    assert rows and value in read(name).cells[0].source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_were_run_once_from_top_to_bottom_without_an_error(name):
    cells = [cell for cell in code_cells(read(name)) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


# ------------------------------------------------------------------------------------ outputs belong to the code


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_saved_outputs_belong_to_the_code_and_to_the_modules_it_imports(name):
    assert read(name).metadata["hw4"]["fingerprint"] == fingerprint(read(name)), "stale outputs: make notebooks"


def test_the_picture_of_the_readme_shows_the_saved_notebooks():
    with Image.open(overview.PICTURE) as picture:
        assert picture.text["Source"] == overview.source(), "older figures: python -m tools.overview"


CELLS = (
    'GIT_URL = ""  # @param\nGIT_REF = "main"',
    "%matplotlib inline\nfrom first import f",
    "x = f(2)  # why\n",
)
FILES = {
    "first/__init__.py": '"""A package."""\nfrom .inner import f\n',
    "first/inner.py": "import second\n\n\ndef f(x):\n    return second.FACTOR * x\n",
    "second.py": '"""Imported by a module alone."""\n\nFACTOR = 3\n\n\nclass C:\n    """Words."""\n\n    y = 1\n',
    "unused.py": "z = 1\n",
}


@pytest.mark.parametrize(
    ("place", "old", "new", "same"),
    (
        (0, '""', '"https://example.org/hw4.git"', True),  # where the project is published
        (0, '"main"', '"v2"', True),
        (0, "GIT_URL", "URL", False),
        (1, "%matplotlib inline", "%matplotlib agg", False),
        (2, "  # why\n", "\n\n\n# because\n", True),
        (2, "x = f(2)", "x = (\n    f(2)\n)", True),
        (2, "f(2)", "f(3)", False),
        (2, "f(2)", "f(None)", False),
        ("first/__init__.py", "A package", "Two functions", True),
        ("first/inner.py", "    return", '    """Multiply."""\n    # a comment\n\n    return', True),
        ("first/inner.py", "* x", "* x + 0", False),
        ("second.py", "Words", "Other words", True),
        ("second.py", "alone", "only", True),
        ("second.py", "FACTOR = 3", "FACTOR = 4", False),
        ("second.py", "y = 1", "y = True", False),
        ("unused.py", "1", "2", True),
    ),
)
def test_the_fingerprint_changes_with_what_may_change_an_output_and_with_nothing_else(tmp_path, place, old, new, same):
    cells, files = list(CELLS), dict(FILES)
    changed = cells if isinstance(place, int) else files
    assert old in changed[place]
    fingerprints = []
    for text in (changed[place], changed[place].replace(old, new)):
        changed[place] = text
        for path, source in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(source)
        fingerprints.append(fingerprint(notebook_of(*cells), tmp_path))
    assert (fingerprints[0] == fingerprints[1]) is same


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_fingerprint_covers_what_the_notebook_imports_through_others(name, tmp_path):
    for package in ("common", "data"):
        (tmp_path / package).mkdir()
        for path in (ROOT / package).glob("*.py"):
            (tmp_path / package / path.name).write_text(path.read_text())
    before = fingerprint(read(name), tmp_path)
    assert before == fingerprint(read(name))
    file = tmp_path / "common" / "files.py"  # imported by the modules that write, by no notebook
    file.write_text(file.read_text() + "\nLATE = 1\n")
    assert fingerprint(read(name), tmp_path) != before


# ------------------------------------------------------------------------------------ functions take arguments


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_functions_take_what_they_use_as_arguments(name):
    assert [str(read_) for read_ in global_reads(read(name))] == []


@pytest.mark.parametrize(
    ("source", "found"),
    (
        ("def f():\n    return value", ["f"]),
        ("def f():\n    value[0] = 1", ["f"]),
        ("class C:\n    def g(self):\n        return value", ["C.g"]),
        ("f = lambda x: x + value", ["lambda"]),
        ("def f():\n    def g():\n        return value\n    return g", ["f.g"]),
        ("def f():\n    return [i + value for i in range(3)]", ["f"]),
        ("def f():\n    class C:\n        y = value\n    return C", ["f.C"]),
        ("def f():\n    return lambda: made_in_a_loop", ["f.lambda"]),
        ("def f():\n    return DEVICE, DRAWN", ["f", "f"]),  # upper case, but computed
        ("def f():\n    global value\n    value += 1", ["f"]),
        ("def f():\n    return walrus", ["f"]),
        # run where they stand, or local
        ("def f(x=value):\n    return x", []),
        ("@value\ndef f() -> value: ...", []),
        ("class C:\n    y = value", []),
        ("total = [value for _ in range(3)]\nother = sum(value for _ in range(3))", []),
        ("def f(value):\n    return lambda: value", []),
        ("def f():\n    value = 1\n    def g():\n        return value\n    return g", []),
        ("def f():\n    return [value for value in range(3)]", []),
        ("mine = 1\ndef f():\n    return mine", []),  # this cell's own
        # say what they are
        ("def f():\n    return math.pi * RATE * SIZES['a'] * len(NAMES) * SAMPLE['epochs']", []),
        ("def f():\n    return helper(), Helper(), STARTS['random'](3)", []),
        ("def f():\n    return POINTS[0]", []),
    ),
)
def test_reads_of_other_cells_values_are_found_and_nothing_else(source, found):
    made = (
        "import math\nRATE: float = 1e-3\nSIZES = {'a': (1, -2)}\nNAMES = ('x', 'y')\nSAMPLE = dict(epochs=5, **SIZES)",
        "value = [1]\nDEVICE = str(value)\nDRAWN = [helper() for _ in (1, 2)]\n"
        "for made_in_a_loop in value: pass\nif (walrus := 1): pass",
        "def helper(): ...\nclass Helper: ...\nSTARTS = {'zero': lambda n: n * [0], 'random': helper}\n"
        "class Point(NamedTuple): x: int\nPOINTS = [Point(2 * i) for i in (1, 2)]",
    )
    reads = global_reads(notebook_of(*made, source))
    assert [read_.function for read_ in reads] == found
    assert all(read_.cell == 3 and read_.made_in == 1 for read_ in reads)


def test_a_constant_computed_from_a_value_is_a_value():
    reads = global_reads(notebook_of("n = int('3')", "LIMITS = (1, n)", "def f():\n    return LIMITS"))
    assert [str(read_) for read_ in reads] == ["cell 2: f reads LIMITS, made in cell 1: make it an argument"]


@pytest.mark.parametrize(
    ("target", "needed"),
    (
        ("train(model, data)", [0, 1, 3, 5]),
        ("Big()", [0, 2, 6]),
        ("print(rate)", [7, 8]),
        ("x = [unused for unused in range(3)]", []),
        ("class C:\n    y = [maximum for _ in range(2)]", [4]),
    ),
)
def test_the_cells_that_a_cell_needs_are_found_in_their_order(target, needed):
    cells = (
        "import torch",
        "def train(model, data):\n    return torch.sum(data)",
        "class Big:\n    size = torch.tensor(3)\n    def f(self):\n        return later()",
        "data = [1]",
        "model = 'another'\nmaximum = 3",
        "model = 'trained'",
        "def later(): ...",
        "rate = 1",
        "if rate:\n    rate = 2",  # perhaps: the cell before counts too
        target,
        "model = 'later'",
    )
    assert needed_cells(notebook_of(*cells), [9]) == needed


# ------------------------------------------------------------------------------------ form


def uses_of_test_data(source):
    """The calls, or else statements, that use a name or attribute such as ``test``, ``test_rows`` or ``news.test``.

    Asking for its size does not count, nor do functions: they use what they are called with.
    """
    found = []

    def visit(node, inside):
        if isinstance(node, ast.FunctionDef):
            return
        if isinstance(node, ast.Call):
            inside = ast.unparse(node.func)
        elif isinstance(node, ast.stmt):
            inside = ast.unparse(node)
        name = getattr(node, "id", getattr(node, "attr", ""))
        if re.search(r"(^|_)test(_|$)", name) and isinstance(node.ctx, ast.Load) and inside != "len":
            found.append(inside)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), "")
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_but_its_size_is_used_of_the_test_split_before_its_heading(name):
    cells = read(name).cells
    titles = [i for i, cell in enumerate(cells) if re.match(r"## .*\btest\b.*\bonce\b", cell.source, re.I)]
    assert titles, "no heading says that the test set is used once"
    used = [use for cell in cells[: titles[0]] if cell.cell_type == "code" for use in uses_of_test_data(python(cell))]
    assert set(used) <= {"send", "eng_fra.leak"}  # to the device; whether its sentences are in training


def test_uses_of_test_data_are_found():
    source = (
        "a, test = f(data)\nprint(len(test), len(news.test))\nfit(model, test)\nb = news.test[:3]\nlatest = contest + 1"
    )
    assert uses_of_test_data(source) == ["fit", "b = news.test[:3]"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_the_handout_forbids_is_not_even_mentioned(name):
    """A grader may search the file for these words and give no points for a comment."""
    forbidden = {
        "hw4_rnn": r"nn\.(RNN|LSTM|GRU|Linear|Embedding|Dropout)|CrossEntropyLoss|NLLLoss|F\.\w*(loss|cross_entropy)",
        "hw4_seq2seq": r"MultiheadAttention|nn\.Transformer|scaled_dot_product_attention",
        "hw4_vit": r"MultiheadAttention|nn\.Transformer|nn\.Dropout|scaled_dot_product_attention|timm\b",
    }[name]
    for number, cell in enumerate(read(name).cells):
        assert not re.search(forbidden, cell.source), f"{name}, cell {number}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_setup_cell_is_short_folded_and_the_same_in_all_three(name):
    cell = code_cells(read(name))[0]
    assert cell.source == code_cells(read(NOTEBOOKS[0]))[0].source and len(cell.source.splitlines()) <= 30
    assert cell.metadata["cellView"] == "form" and not cell.outputs


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_one_visible_frozen_dataclass_holds_the_settings(name):
    source = "\n".join(cell.source for cell in code_cells(read(name)))
    assert len(re.findall(r"^@dataclass\(frozen=True\)\nclass Config:", source, re.M)) == 1
    assert "config = configure(Config" in source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_colab_gives_a_gpu(name):
    assert read(name).metadata["accelerator"] == "GPU"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_hold_no_warning_no_progress_bar_and_no_path_of_a_machine(name):
    for cell in code_cells(read(name)):
        text = printed(cell)
        assert not re.search(r"Warning|Traceback|\r|[a-z]/s\b|/(home|root|work|tmp|content)/", text), text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_take_their_colors_from_the_shared_style(name):
    source = "\n".join(cell.source for cell in code_cells(read(name)))
    assert "plotting.use_style()" in source and "plt.show()" not in source
    assert not re.search(r"""\bcolor=|\bcmap=(?!"cividis")""", source)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_data_is_published_and_the_file_is_small(name):
    assert all(not cell.outputs for cell in code_cells(read(name)) if tags(cell) & EMPTIED)
    assert any("shows-data" in tags(cell) for cell in code_cells(read(name)))
    assert (ROOT / f"{name}.ipynb").stat().st_size < 1_000_000


def test_cleaning_for_publication_keeps_results_and_drops_data_and_progress_bars():
    def cell(tag, *texts):
        outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in texts]
        metadata = {"tags": [tag], "cellView": "form", "papermill": {}}
        return nbformat.v4.new_code_cell("1", metadata=metadata, outputs=outputs)

    bar = (
        ("stdout", "\rsearch 9 %"),
        ("stdout", "\rsearch 10 %"),
        ("stderr", "100 it/s"),
        ("stdout", "\r    \rRESULT\n"),
    )
    cells = [cell("define", *bar), cell("shows-data", ("stdout", "text")), cell("define", ("stdout", "\r 5 %\r   \r"))]
    notebook = clean(nbformat.v4.new_notebook(cells=cells), publish=True)
    assert [[o.text for o in c.outputs] for c in notebook.cells] == [["RESULT\n"], [], []]
    assert notebook.metadata["hw4"] == {"fingerprint": fingerprint(notebook)}
    assert notebook.cells[0].metadata == {"tags": ["define"], "cellView": "form"}

    text = nbformat.v4.new_markdown_cell("text", metadata={"papermill": {}, "tags": []})
    assert clean(nbformat.v4.new_notebook(cells=[text]), publish=True).cells[0].metadata == {}
