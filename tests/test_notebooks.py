"""The saved notebooks: results beyond the targets, outputs that belong to the code, and form."""

import ast
import re
import symtable

import nbformat
import pytest
from conftest import FORBIDDEN, ROOT, read
from PIL import Image

from tools import overview
from tools.notebooks import EMPTIED, TASKS, clean, fingerprint, printed, python, results, tags
from tools.submission import without_dead_links

POINTS = {"hw4_rnn": (3, 2, 10, 5, 5, 5), "hw4_seq2seq": (10, 10, 10), "hw4_vit": (5, 10, 10, 10, 5)}
TESTED = {"hw4_rnn": 7_600, "hw4_seq2seq": 2_000, "hw4_vit": 10_000}  # size of the test set, at least

each_notebook = pytest.mark.parametrize("name", TASKS)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def notebook_of(*sources):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def headings(cells):
    """The headings of text cells, with the number of their cell."""
    texts = [(i, cell.source) for i, cell in enumerate(cells) if cell.cell_type == "markdown"]
    return [(i, line) for i, text in texts for line in re.findall("(?m)^#+ .*", text)]


def place(cells, pattern):
    """The number of the only cell with such a heading."""
    (found,) = [i for i, line in headings(cells) if re.match(pattern, line)]
    return found


# ------------------------------------------------------------------------------------ outputs


@each_notebook
def test_saved_outputs_belong_to_the_code_and_to_the_modules_it_imports(name):
    assert read(name).metadata["hw4"]["fingerprint"] == fingerprint(read(name)), "stale outputs: make notebooks"


@each_notebook
def test_both_results_are_on_real_data_and_beyond_the_target(name):
    stated = results(read(name))
    assert [result["part"] for result in stated] == ["assignment", "further"]
    for result in stated:
        value, target = result["value"], result["target"]
        assert result["data"] == "real" and result["test_size"] >= TESTED[name] and result["passed"]
        assert 1 < value < target == 7 if "perplexity" in result["metric"] else 100 > value > target


@each_notebook
def test_readme_and_title_state_both_results(name):
    values = [f"{result['value']:.2f}" for result in results(read(name))]
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert any(f"{name}.ipynb" in line and all(value in line for value in values) for line in lines)
    assert all(value in read(name).cells[0].source for value in values)


@each_notebook
def test_cells_were_run_once_from_top_to_bottom_without_an_error_or_a_warning(name):
    cells = code_cells(read(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in cell.outputs)
        text = printed(cell)
        assert not re.search(r"Warning|Traceback|\r|[a-z]/s\b|/(home|root|work|tmp|content)/", text), text
        assert all(len(line) <= 100 or line.startswith("RESULT ") for line in text.splitlines()), text


@each_notebook
def test_no_data_is_published_and_the_file_is_small(name):
    assert all(not cell.outputs for cell in code_cells(read(name)) if tags(cell) & EMPTIED)
    assert any("shows-data" in tags(cell) for cell in code_cells(read(name)))
    assert (ROOT / f"{name}.ipynb").stat().st_size < 1_000_000


def test_the_picture_of_the_readme_shows_the_saved_notebooks():
    assert overview.PICTURE.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text(encoding="utf-8")
    with Image.open(overview.PICTURE) as picture:
        assert picture.mode == "RGB" and picture.text["Source"] == overview.source(), "python -m tools.overview"


CELLS = ('GIT_URL = ""  # @param', "%matplotlib inline\nfrom first import f", "x = f(2)  # why\n")
FILES = {
    "first/__init__.py": '"""A package."""\nfrom .inner import f\n',
    "first/inner.py": "import second\n\n\ndef f(x):\n    return second.FACTOR * x\n",
    "second.py": '"""Imported by a module alone."""\n\nFACTOR = 3\n',
    "unused.py": "z = 1\n",
}


@pytest.mark.parametrize(
    ("place", "old", "new", "same"),
    (
        (0, '""', '"https://example.org/hw4.git"', True),  # where the project is published
        (0, "GIT_URL", "URL", False),
        (1, "%matplotlib inline", "%matplotlib agg", False),
        (2, "x = f(2)  # why\n", "x = (\n    f(2)\n)  # because", True),
        (2, "f(2)", "f(3)", False),
        ("first/__init__.py", "A package", "Two functions", True),
        ("first/inner.py", "    return", '    """Multiply."""\n    # a comment\n\n    return', True),
        ("first/inner.py", "* x", "* x + 0", False),
        ("second.py", "FACTOR = 3", "FACTOR = None", False),
        ("unused.py", "1", "2", True),
    ),
)
def test_the_fingerprint_changes_with_what_may_change_an_output_and_with_nothing_else(tmp_path, place, old, new, same):
    cells, files, fingerprints = list(CELLS), dict(FILES), []
    changed = cells if isinstance(place, int) else files
    assert old in changed[place]
    for text in (changed[place], changed[place].replace(old, new)):
        changed[place] = text
        for path, source in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(source, encoding="utf-8")
        fingerprints.append(fingerprint(notebook_of(*cells), tmp_path))
    assert (fingerprints[0] == fingerprints[1]) is same


def test_cleaning_for_publication_keeps_results_and_drops_data_and_progress_bars():
    def cell(tag, *texts):
        outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in texts]
        metadata = {"tags": [tag], "cellView": "form", "papermill": {}}
        return nbformat.v4.new_code_cell("1", metadata=metadata, outputs=outputs)

    bar = [("stdout", "\rsearch 9 %"), ("stderr", "\r100 it/s"), ("stdout", "\r    \rRESULT\n"), ("stderr", "\r   \r")]
    warned = [("stderr", "UserWarning: careful\n"), ("stdout", "1\n")]
    cells = [cell("define", *bar), cell("shows-data", ("stdout", "text")), cell("define", ("stdout", "\r 5 %\r   \r"))]
    cells.append(cell("define", *warned))
    widgets = {"application/vnd.jupyter.widget-state+json": {"version_major": 2}}  # no "state": not rendered
    notebook = clean(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": widgets}), publish=True)
    texts = [[o.text for o in c.outputs] for c in notebook.cells]
    assert texts == [["RESULT\n"], [], [], ["1\n", "UserWarning: careful\n"]]
    assert notebook.metadata == {"hw4": {"fingerprint": fingerprint(notebook)}}
    assert notebook.cells[0].metadata == {"tags": ["define"], "cellView": "form"}


# ------------------------------------------------------------------------------------ form


@each_notebook
def test_every_question_has_its_heading_with_its_points_and_the_last_one_a_report(name):
    cells = read(name).cells
    first, second = place(cells, "# Part I: "), place(cells, "# Part II: [Gg]oing further")
    question = re.compile(r"## \d\((.)\).*\[(\d+) points\]$")
    asked = [(i, *found.groups()) for i, line in headings(cells) if (found := question.match(line))]
    assert [(letter, int(points)) for _, letter, points in asked] == list(zip("abcdef", POINTS[name]))
    assert first <= asked[0][0] and asked[-1][0] < place(cells, "### Report") < second
    before = [cell.source for cell in cells[: asked[0][0]] if cell.cell_type == "code"]
    assert sum(bool(line.strip()) for source in before for line in source.splitlines()) <= 60
    assert second < place(cells, "## Findings") < place(cells, "## Limits") < place(cells, "## References and collab")
    where = [i for i, cell in enumerate(cells) for _ in re.findall(r"session\.report\(", cell.source)]
    assert len(where) == 2 and where[0] < second < where[1]


@each_notebook
def test_links_within_the_notebook_lead_to_its_headings(name):
    for cell in read(name).cells:
        assert without_dead_links(cell.source, read(name).cells) == cell.source


@each_notebook
def test_the_title_has_the_badge_on_a_line_of_its_own_and_colab_gives_a_gpu(name):
    assert re.search(r"(?m)^\[!\[Open in Colab\]\(\S+\)\]\(\S+\)$", read(name).cells[0].source)
    assert read(name).metadata["accelerator"] == "GPU"


@each_notebook
def test_the_setup_cell_is_short_folded_and_the_same_in_all_three(name):
    cell = code_cells(read(name))[0]
    assert cell.source == code_cells(read("hw4_rnn"))[0].source and len(cell.source.splitlines()) <= 16
    assert cell.source.startswith("# @title Setup\n") and cell.metadata["cellView"] == "form" and not cell.outputs


@each_notebook
def test_each_part_has_its_settings_in_one_frozen_dataclass(name):
    source = "\n".join(cell.source for cell in code_cells(read(name)))
    assert re.findall(r"@dataclass\(frozen=True\)\nclass (Config\(Shared\)|Further):", source) == [
        "Config(Shared)",
        "Further",
    ]
    assert "config = configure(Config" in source and "further = configure(Further, FURTHER" in source


@each_notebook
def test_code_fits_the_page(name):
    for number, cell in enumerate(read(name).cells):
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 45, f"cell {number}"
            assert all(len(line) <= 100 for line in cell.source.splitlines()), f"cell {number}"


@each_notebook
def test_what_the_handout_forbids_is_not_even_mentioned(name):
    for number, cell in enumerate(read(name).cells):
        assert not re.search(FORBIDDEN[name], cell.source), f"{name}, cell {number}"


@each_notebook
def test_figures_take_their_colors_from_the_shared_style(name):
    source = "\n".join(cell.source for cell in code_cells(read(name)))
    assert "plotting.use_style()" in source and "plt.show()" not in source
    assert not re.search(r"""\bcolor=(?!plotting\.)|\bcmap=""", source)


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


@each_notebook
def test_nothing_but_its_size_is_used_of_the_test_split_before_its_place_in_each_part(name):
    cells = read(name).cells
    second = place(cells, "# Part II")
    read_first = min(i for i, line in headings(cells) if re.match("### (The test|Training, and the test|Report)", line))
    read_again = min(i for i, line in headings(cells) if i > second and re.match(r"## (.*\btest\b|Compared)", line))
    for part in (cells[:read_first], cells[second:read_again]):
        used = [use for cell in part if cell.cell_type == "code" for use in uses_of_test_data(python(cell))]
        assert set(used) <= {
            "splits.leak",  # whether its sentences are in training
            "held_out = [*unseen_validation, *unseen_test_pairs]",  # sentences that pre-training leaves out
        }


def test_uses_of_test_data_are_found():
    source = (
        "a, test = f(data)\nprint(len(test), len(news.test))\nfit(model, test)\nb = news.test[:3]\nlatest = contest + 1"
    )
    assert uses_of_test_data(source) == ["fit", "b = news.test[:3]"]


def read_by_functions(table):
    """The global names that functions read."""
    for child in table.get_children():
        if child.get_type() == "function":
            yield from (symbol.get_name() for symbol in child.get_symbols() if symbol.is_global())
        yield from read_by_functions(child)


@each_notebook
def test_functions_take_what_they_use_as_arguments(name):
    """They read no value that a cell without definitions has made."""
    made, used = set(), set()
    for cell in code_cells(read(name)):
        if "define" in tags(cell):
            used |= {*read_by_functions(symtable.symtable(python(cell), "cell", "exec"))}
        else:
            nodes = ast.walk(ast.parse(python(cell)))
            made |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert not used & made
    assert {*read_by_functions(symtable.symtable("def f(): return config", "cell", "exec"))} & made == {"config"}


@each_notebook
def test_the_language_is_american_and_the_fields(name):
    british = r"\b(normalis|initialis|optimis|regularis|behaviour|neighbour|colour|centre\b|labelled|modelled)"
    phrases = r"earlier (version|run)|by heart|\banew\b|in a frame|stands? under|whole or not at all|\d %"
    for number, cell in enumerate(read(name).cells):
        if cell.cell_type == "markdown":
            assert not (found := re.search(f"{british}|{phrases}", cell.source, re.I)), f"cell {number}: {found[0]}"
