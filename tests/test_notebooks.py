"""The saved notebooks: results that meet the bars, outputs that belong to the code above them, and their form."""

import re

import nbformat
import pytest
from conftest import ROOT, read
from questions import question

from tools.notebooks import EMPTIED, TASKS, clean, code_hash, printed, results, tags

NOTEBOOKS = tuple(TASKS)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def result_of(notebook) -> dict:
    """The one line ``RESULT {...}`` that states what the notebook reached."""
    stated = results(notebook)
    assert len(stated) == 1, f"{len(stated)} lines of RESULT in the outputs, expected 1"
    return stated[0]


def longest_log(notebook) -> int:
    """The most lines with three numbers or more that one cell printed about epochs."""
    logs = [printed(cell) for cell in code_cells(notebook) if "epoch" in printed(cell).lower()]
    number = r"(?<![\w.])\d+(\.\d+)?(e-?\d+)?(?![\w.])"
    return max((sum(len(re.findall(number, line)) >= 3 for line in log.splitlines()) for log in logs), default=0)


def figures(notebook, word: str) -> int:
    """The saved figures of cells whose code or text output names a thing."""
    cells = [cell for cell in code_cells(notebook) if word in (cell.source + printed(cell)).lower()]
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


# ------------------------------------------------------------------------------------ 1(f), 2(c), 3(e)


@question("1f")
def test_saved_accuracy_on_news_is_above_70_percent_on_real_data(notebook):
    result = result_of(notebook)
    assert result["data"] == "real" and result["test_size"] == 7_600 and result["value"] > 70


@question("1f")
def test_the_search_compares_optimizers_rates_and_schedules_in_tensorboard(notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook))
    assert re.search(r"^%tensorboard --logdir", source, re.M) and re.search(r"tracking\.|SummaryWriter", source)
    output = "\n".join(printed(cell) for cell in code_cells(notebook))
    assert sum(name in output for name in ("SGD", "RMSprop", "Adagrad", "Adam", "AdamW")) >= 2


@question("2c")
def test_saved_perplexity_is_below_7_on_real_data(notebook):
    result = result_of(notebook)
    assert result["data"] == "real" and result["test_size"] > 1_000 and 1 < result["value"] < 7


@question("2c")
def test_perplexity_and_learning_rate_are_plotted_and_the_parameters_printed(notebook):
    assert figures(notebook, "perplexity") and figures(notebook, "learning rate")
    assert re.search(r"hid_dim\D{1,3}\d+", "\n".join(printed(cell) for cell in code_cells(notebook)))


@question("3e")
def test_saved_accuracy_on_images_is_above_65_percent_on_real_data(notebook):
    result = result_of(notebook)
    assert result["data"] == "real" and result["test_size"] == 10_000 and result["value"] > 65


EACH = [  # every saved notebook, deciding over the question about its training
    pytest.param(name, marks=question(letter))
    for name, letter in (("hw4_rnn", "1f"), ("hw4_seq2seq", "2c"), ("hw4_vit", "3e"))
]


@pytest.mark.parametrize("name", EACH)
def test_the_saved_log_shows_the_training(name, notebook):
    assert longest_log(notebook) >= 3


@pytest.mark.parametrize("name", EACH)
def test_cells_were_run_once_from_top_to_bottom_without_an_error(name, notebook):
    cells = [cell for cell in code_cells(notebook) if cell.source.strip()]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("name", EACH)
def test_saved_outputs_belong_to_the_code_above_them(name, notebook):
    if "hw4" not in notebook.metadata:
        pytest.skip("the notebook does not say which code its outputs belong to")
    assert notebook.metadata["hw4"]["code_sha256"] == code_hash(notebook)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_one_changed_character_of_any_cell_makes_the_outputs_stale(name):
    stored = read(name).metadata["hw4"]["code_sha256"]
    for number in range(len(code_cells(read(name)))):
        notebook = read(name)
        cell = code_cells(notebook)[number]
        cell.source = cell.source[:-1] + chr(ord(cell.source[-1]) + 1)
        assert code_hash(notebook) != stored


@pytest.mark.parametrize(
    ("outputs", "lines"),
    (
        ("epoch 1 loss 0.5 acc 70.1\nepoch 2 loss 0.4 acc 71\nepoch 3 loss 3e-1 acc 72", 3),
        ("epoch  loss  acc\n1 0.5 70\n2 0.4 71", 2),
        ("epoch one was fine\nand so was epoch two", 0),
        ("1 2 3\n4 5 6", 0),
    ),
)
def test_a_log_is_lines_of_numbers_about_epochs(outputs, lines):
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("stream", text=outputs)])
    assert longest_log(nbformat.v4.new_notebook(cells=[cell])) == lines


@pytest.mark.parametrize("name", EACH)
def test_nothing_but_its_size_is_used_of_the_test_split_before_its_heading(name, notebook):
    touched = r"(news|images)\.test\b|(?<![\w\"])test\b[\[,)]|test_rows|split\[2\]|\]\[2\]"
    harmless = r"len\(|^test = tuple\(part\.to\(device\)|in SPLITS\.items\(\)"
    titles = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## The test, once")]
    if not titles:
        pytest.skip("the notebook has no heading 'The test, once'")
    before = [cell for cell in notebook.cells[: titles[0]] if cell.cell_type == "code"]
    lines = [line for cell in before for line in cell.source.splitlines()]
    assert [line for line in lines if re.search(touched, line) and not re.search(harmless, line)] == []


# ------------------------------------------------------------------------------------ form


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_name_of_what_is_forbidden_is_not_even_mentioned(name):
    """A grader may search the file for these names and give no points for a comment."""
    forbidden = {
        "hw4_rnn": r"nn\.(RNN|LSTM|GRU|Linear|Embedding|Dropout)|CrossEntropyLoss|NLLLoss|F\.\w*(loss|cross_entropy)",
        "hw4_seq2seq": r"MultiheadAttention|nn\.Transformer|scaled_dot_product_attention",
        "hw4_vit": r"MultiheadAttention|nn\.Transformer|nn\.Dropout|scaled_dot_product_attention|timm\b",
    }[name]
    for number, cell in enumerate(read(name).cells):
        assert not re.search(forbidden, cell.source), f"{name}, cell {number}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_setup_cell_is_short_and_the_same_in_all_three(name):
    source = code_cells(read(name))[0].source
    assert source == code_cells(read(NOTEBOOKS[0]))[0].source and len(source.splitlines()) <= 30


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_colab_gives_a_gpu(name):
    assert read(name).metadata["accelerator"] == "GPU"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_hold_no_warning_no_progress_bar_and_no_path_of_a_machine(name):
    for cell in code_cells(read(name)):
        said = printed(cell)
        assert not re.search(r"Warning|Traceback|\r|[a-z]/s\b|/(home|root|work|tmp|content)/", said), said


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_forms_hold_plain_values_that_colab_and_papermill_can_set(name):
    (form,) = [cell for cell in code_cells(read(name)) if "parameters" in tags(cell)]
    lines = [line for line in form.source.splitlines() if not line.startswith("# @")]
    assert {line.split(" = ")[0] for line in lines} > {"DATA", "SEED", "EPOCHS", "RUNS"}
    assert all(re.fullmatch(r"""[A-Z_]+ = ("[^"]*"|\d+)  # @param (\{type: "\w+"\}|\[.*\])""", line) for line in lines)


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
        return nbformat.v4.new_code_cell("1", metadata={"tags": [tag], "papermill": {}}, outputs=outputs)

    notebook = nbformat.v4.new_notebook(cells=[
        cell("define", ("stdout", "\rsearch 9 %"), ("stdout", "\rsearch 10 %"), ("stderr", "100 it/s"),
             ("stdout", "\r       \rRESULT\n")),
        cell("shows-data", ("stdout", "a sentence")), cell("define", ("stdout", "\r 5 %\r     \r")),
    ])  # fmt: skip
    clean(notebook, publish=True)
    assert [[o.text for o in c.outputs] for c in notebook.cells] == [["RESULT\n"], [], []]
    assert notebook.metadata["hw4"]["code_sha256"] == code_hash(notebook)
    assert notebook.cells[0].metadata == {"tags": ["define"]}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_readme_and_title_state_the_saved_result(name):
    value = f"{result_of(read(name))['value']:.2f}"
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| [`{name}.ipynb`]"))
    assert f"**{value}" in row
    assert re.search(rf"\*\*Saved run: (test perplexity )?{re.escape(value)}", read(name).cells[0].source)
