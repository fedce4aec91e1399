"""The grader: points as in the assignment, lost by a failing test, also for a notebook that is not ours."""

import subprocess
import sys

import nbformat
import pytest
import strangers
from conftest import ROOT, read
from questions import QUESTIONS, Grade, question

from tools.notebooks import TASKS


def test_the_questions_are_worth_what_the_assignment_says():
    totals = {name: sum(q.points for q in QUESTIONS.values() if q.notebook == name) for name in TASKS}
    assert totals == {"hw4_rnn": 30, "hw4_seq2seq": 30, "hw4_vit": 40}


def test_a_failing_test_takes_its_parts_points_and_is_named():
    grade = Grade()
    grade.add("3b", "one head", "test_a", True)
    grade.add("3b", "several heads", "test_b", True)
    grade.add("3b", "several heads", "test_c", False)
    assert grade.earned("3b") == 5 and grade.earned("3a") == 0
    table = "\n".join(grade.table({"hw4_vit"}))
    assert "failed: test_c" in table and "none ran" in table and "1a" not in table
    assert table.splitlines()[-1].split() == ["total", "5", "40"]


def test_a_question_without_a_test_that_ran_earns_nothing():
    assert Grade().table(set(TASKS))[-1].split() == ["total", "0", "100"]


def test_a_mark_for_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="has no part 'two heads'"):
        question("3b", "two heads")


def grade(path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "tests", "-m", "question", f"--notebook={path}", "-p", "no:cacheprovider"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def points(output: str) -> dict[str, int]:
    """Question -> points earned, from the table's fourth column."""
    rows = [line for line in output.splitlines() if line[:9].strip() in {*QUESTIONS, "total"}]
    return {line[:9].strip(): int(line[53:59]) for line in rows}


def changed(tmp_path, name, *edits):
    """A copy of our notebook without its tags, as a stranger's would be, with some text replaced."""
    notebook = read(name)
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)
    notebook.metadata.pop("hw4")
    for old, new in edits:
        assert any(old in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, tmp_path / "other.ipynb")
    return tmp_path / "other.ipynb"


@pytest.mark.parametrize(
    ("name", "edits", "lost"),
    (
        ("hw4_vit", (), {}),
        ("hw4_vit", (("(D // self.num_heads) ** -0.5", "1.0"),), {"3b": 10}),
        ("hw4_rnn", (("there = step < length  #", "there = step < length.max() + 0 * length  #"),), {"1c": 10}),
        ("hw4_seq2seq", (("weights = scores.softmax(1)", "weights = scores.softmax(0)"),), {"2a": 10, "2b": 10}),
    ),
    ids=("sound", "attention without its scale", "padding read as words", "softmax over the wrong axis"),
)
def test_another_notebook_is_graded_and_loses_the_points_of_what_is_wrong(tmp_path, name, edits, lost):
    done = grade(changed(tmp_path, name, *edits))
    earned = points(done.stdout)
    expected = {letter: q.points - lost.get(letter, 0) for letter, q in QUESTIONS.items() if q.notebook == name}
    assert earned == expected | {"total": sum(expected.values())}, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("source", "letters"),
    ((strangers.RNN, "1a 1b 1c 1d 1e"), (strangers.SEQ2SEQ, "2a 2b"), (strangers.VIT, "3a 3b 3c 3d")),
    ids=("rnn", "seq2seq", "vit"),
)  # fmt: skip
def test_a_plain_notebook_with_other_names_inside_earns_all_but_what_its_missing_outputs_decide(
    tmp_path, source, letters
):
    cells = [nbformat.v4.new_code_cell(part) for part in source.split("\n\n\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "plain.ipynb")
    done = grade(tmp_path / "plain.ipynb")
    earned = points(done.stdout)
    expected = {letter: q.points if letter in letters else 0 for letter, q in QUESTIONS.items() if letter in earned}
    assert earned == expected | {"total": sum(expected.values())}, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("content", "message"),
    ((None, "no notebook at"), ("{}", "cannot be read"), ("cells", "defines none of the classes")),
)
def test_a_file_that_cannot_be_graded_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "other.ipynb"
    if content == "cells":
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]), path)
    elif content:
        path.write_text(content)
    done = grade(path)
    assert done.returncode != 0 and message in done.stdout + done.stderr
