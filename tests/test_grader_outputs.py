"""Results read out of saved outputs, and submissions as they come: archives, folders, reports, tables."""

import csv
import io
import json
import os
import threading
import time
import zipfile

import nbformat
import pytest
from made_notebooks import COURSE, code, figure, made, stream, written

from grader import __main__ as main
from grader import report, runner, submissions
from grader.questions import OPEN, PASSED, WRONG, Finding, Grade, Remark
from grader.report import Points
from grader.results import best, candidates, judge_outputs

# ------------------------------------------------------------------------------------ results

READ = (  # homework, what is printed, the value that counts and its label
    ("hw4_vit", "Accuracy of the network on the 10000 test images: 71 %", 71, "test"),
    ("hw4_vit", "Test set: Average loss: 0.8100, Accuracy: 7185/10000 (72%)", 72, "test"),
    ("hw4_vit", "Test accuracy: 7185/10000", 71.85, "test"),
    ("hw4_vit", "테스트 정확도: 71.9%", 71.9, "test"),
    ("hw4_vit", "Test accuracy (epoch 30): 71.9%", 71.9, "test"),
    ("hw4_vit", "test Acc@1 71.9 Acc@5 97.1", 71.9, "test"),
    ("hw4_vit", "[30/30] test_acc=0.719", 71.9, "test"),
    ("hw4_vit", "100%|####| 79/79 [00:12<00:00, 6.51it/s, test acc=71.9]", 71.9, "test"),
    ("hw4_vit", "71.9% test accuracy", 71.9, "test"),
    ("hw4_vit", "Test accuracy 71.90 (target 65)\nval accuracy 99.0", 71.9, "test"),
    ("hw4_rnn", "lr 0.1 test accuracy 61.0\nlr 0.01 test accuracy 88.5\nlr 0.001 test accuracy 80.0", 88.5, "test"),
    ("hw4_rnn", "RNN test accuracy 81.5\nLSTM test accuracy 91.0", 81.5, "test"),
    ("hw4_rnn", "epoch 1, step 700/938, train acc 0.99, valid acc 0.881", 88.1, "valid"),
    ("hw4_rnn", "test accuracy 90.66%", 90.66, "test"),
    ("hw4_seq2seq", "| Test Loss: 1.547 | Test PPL:   4.697 |", 4.697, "test"),
    ("hw4_seq2seq", "target perplexity below 6.9\ntest perplexity 8.31", 8.31, "test"),
    ("hw4_seq2seq", "Test perplexity (epoch 20): 5.2, target 6.9", 5.2, "test"),
    ("hw4_seq2seq", "test perplexity without attention 5.0\ntest perplexity 6.1", 6.1, "test"),
)


@pytest.mark.parametrize(("name", "text", "value", "label"), READ)
def test_results_are_read_whatever_printed_them(name, text, value, label):
    cells = submissions.parse(json.dumps({"cells": [code("", stream(text))]}).encode(), "x").cells
    result = best([c for c in candidates(cells, name) if c.score >= 0], name == "hw4_seq2seq")
    assert result and result.value == pytest.approx(value) and result.label == label


def outcomes(name: str, *cells: dict) -> dict[str, str]:
    grade = Grade(name)
    judge_outputs(submissions.parse(json.dumps({"cells": list(cells)}).encode(), "x").cells, grade)
    found: dict[str, str] = {}
    for finding in grade.findings:
        found[finding.part] = grade.outcome(finding.letter, finding.part)[0]
    return found


OURS = 'RESULT {"part": "assignment", "value": 60.0}'
LOG = "[1] loss 1.9 acc 40.1\n[2] loss 1.2 acc 60.5\n"


@pytest.mark.parametrize(
    ("cells", "outcome"),
    (
        ([code("", stream(f"{LOG}test accuracy 66.1%"))], PASSED),
        ([code("", stream("에폭 1 손실 1.9\n에폭 2 손실 1.2\n테스트 정확도 66.1"))], PASSED),
        ([code("", stream("1/30 loss 1.9, 2.0\n2/30 loss 1.2, 1.3\ntest accuracy 66.1"))], PASSED),
        ([code("", stream("step 9: loss 1.9 1.8\nstep 18: loss 1.5 1.2")), code("", stream("test acc 66.1"))], PASSED),
        ([code("", stream(f"{LOG}test accuracy 64.9%"))], WRONG),
        ([code("", stream("test accuracy 66.1%"))], WRONG),
        ([code("", stream(f"{LOG}train accuracy 96.1%".replace("acc ", "a ")))], WRONG),
        ([code("", stream(LOG.replace("acc", "train acc") + "train accuracy 70"))], WRONG),
        ([code("plt.plot(accuracy)", figure()), code("", stream(LOG.replace("acc", "a")))], OPEN),
        ([code("", stream(f'{LOG}RESULT {{"part": "further", "value": 83}}')), code("", stream(OURS))], WRONG),
        ([code("", stream(f'{LOG}RESULT {{"value": 70.0, "data": "real", "test_size": 10000}}'))], PASSED),
        ([code("", stream(f'{LOG}RESULT {{"value": 70.0, "data": "sample", "test_size": 10000}}'))], WRONG),
        ([code("")], WRONG),
    ),
)  # fmt: skip
def test_the_log_and_the_final_accuracy_decide(cells, outcome):
    assert set(outcomes("hw4_vit", *cells).values()) == {outcome}


HELPER = code(
    "def show(a, b):\n    plt.plot(a); plt.title('perplexity'); plt.show()\n    plt.plot(b); plt.ylabel('lr')"
)


@pytest.mark.parametrize(
    ("cells", "outcome"),
    (
        ([code("plt.plot(ppls); plt.plot(lrs)", figure())], PASSED),
        ([HELPER, code("show(x, y)", figure("image/svg+xml"))], PASSED),
        (
            [code("from torch.utils.tensorboard import SummaryWriter\nw.add_scalar('ppl', p); w.add_scalar('lr', r)")],
            PASSED,
        ),
        ([code("plt.plot(x)", figure())], OPEN),
        ([code("plt.plot(ppls); plt.plot(lrs)")], WRONG),
    ),
)
def test_curves_are_found_whoever_draws_them(cells, outcome):
    found = outcomes("hw4_seq2seq", *cells)
    assert (found["perplexity curve"], found["learning rate curve"]) == (outcome, outcome)


def test_tensorboard_is_asked_for():
    result = stream("test accuracy 81.0")
    assert outcomes("hw4_rnn", code("w = SummaryWriter()", result)) == {"test accuracy": PASSED, "TensorBoard": PASSED}
    assert outcomes("hw4_rnn", code("", result))["TensorBoard"] == WRONG
    assert outcomes("hw4_rnn", code("import wandb", result))["TensorBoard"] == OPEN


# ------------------------------------------------------------------------------------ submissions


def archive(path, members: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def packed(members: dict[str, bytes]) -> bytes:
    return archive(file := io.BytesIO(), members) and file.getvalue()


ALL = {f"hw4/{name}.ipynb": written(name) for name in ("hw4_rnn", "hw4_seq2seq", "hw4_vit")}


@pytest.mark.parametrize(
    "members",
    (
        ALL,
        ALL | {"__MACOSX/hw4/._hw4_vit.ipynb": b"x", "data.zip": packed({"eng-fra.txt": b"x"}), "data.tar.gz": b"x"},
        {"2024-1.zip": packed(ALL)},
        {name.replace("hw4_vit", "renamed"): content for name, content in ALL.items()},
        ALL | {"hw4/hw4_vit-old.ipynb": written("hw4_vit"), ".ipynb_checkpoints/hw4_rnn.ipynb": b"x"},
        {name: content.replace(b"class ViT(", b"class ViT (") for name, content in ALL.items()},
    ),
)
def test_three_notebooks_are_read_wherever_they_lie(tmp_path, members):
    found = submissions.read(archive(tmp_path / "2024-20000.zip", members))
    assert found.student == "2024-20000" and set(found.notebooks) == {"hw4_rnn", "hw4_seq2seq", "hw4_vit"}
    old = [problem for problem in found.problems if "was graded, not" in problem]
    assert len(found.problems) == len(old) == ("hw4/hw4_vit-old.ipynb" in members)


@pytest.mark.parametrize(
    ("members", "reason"),
    (
        ({"../hw4_vit.ipynb": b"{}"}, "points outside"),
        ({"/etc/hw4_vit.ipynb": b"{}"}, "points outside"),
        ({"hw4_vit.ipynb": bytes(submissions.ARCHIVE_LIMIT + 1)}, "would unpack to more than"),
        ({"hw4_vit.ipynb": bytes(submissions.NOTEBOOK_LIMIT + 1)}, "has more than"),
        ({str(i): b"" for i in range(submissions.MEMBERS + 1)}, "files"),
        ({"hw4_vit.ipynb": b"{]"}, "cannot be read as a notebook"),
        ({"hw4_vit.ipynb": b"[" * 100_000}, "cannot be read as a notebook"),
        ({"x.ipynb": b'{"nbformat": 4, "cells": []}'}, "defines none of the classes"),
        ({"readme.txt": b"hello"}, "no notebook"),
    ),
)
def test_an_archive_that_cannot_be_graded_is_refused_with_its_reason(tmp_path, members, reason):
    found = submissions.read(archive(tmp_path / "a.zip", members))
    assert not found.notebooks and reason in found.problems[0]


def test_a_damaged_archive_is_refused(tmp_path):
    content = archive(tmp_path / "a.zip", {"hw4_vit.ipynb": written("hw4_vit")}).read_bytes()
    for broken in (b"no archive", content[:500]):
        (tmp_path / "a.zip").write_bytes(broken)
        assert "is damaged" in submissions.read(tmp_path / "a.zip").problems[0]


def test_odd_notebooks_are_read():
    surrogate = {"cell_type": "code", "source": ["class ViT(x):\n", "    pass"], "outputs": [stream("\ud800")]}
    for cell in (
        surrogate,
        {"source": "class ViT: pass", "outputs": []},
        {"cell_type": "code", "source": "class ViT (x): 1"},
    ):
        notebook = submissions.parse(json.dumps({"nbformat": 4, "cells": [cell, {}]}).encode(), "x")
        assert submissions.homework(notebook) == "hw4_vit"
        judge_outputs(notebook.cells, Grade("hw4_vit"))
    old = {
        "nbformat": 3,
        "worksheets": [{"cells": [{"cell_type": "code", "input": ["class RNN(x): 1"], "language": "python"}]}],
    }
    notebook = submissions.parse(json.dumps(old).encode(), "x")
    assert submissions.homework(notebook) == "hw4_rnn" and notebook.code() == {0: "class RNN(x): 1"}


# ------------------------------------------------------------------------------------ a class


@pytest.fixture
def graded_quickly(monkeypatch):
    """A class whose notebooks are not run: their grades are made."""

    def grade(notebook, which, isolated):
        if "boom" in notebook.cells[0]["source"]:
            raise RuntimeError("\ud800 boom")
        findings = [
            Finding("3b", "one head", PASSED),
            Finding("3b", "several heads", OPEN, "=SUM(1)\nform"),
            Finding("3a", "", WRONG, "bad", 0),
        ]
        return Grade(which, findings, [Remark("a <b>remark</b>", 0)])

    monkeypatch.setattr(main, "grade_notebook", grade)


def hand_in(folder, **members: bytes) -> None:
    folder.mkdir()
    for name, content in members.items():
        archive(folder / f"{name}.zip", {"hw4_vit.ipynb": content})


def rows(out) -> list[dict]:
    return list(csv.DictReader((out / "grades.csv").open(encoding="utf-8")))


def test_a_class_gives_a_table_reports_and_feedback_and_is_not_graded_twice(tmp_path, graded_quickly):
    folder, out = tmp_path / "in", tmp_path / "out"
    hand_in(folder, a=written("hw4_vit"), b=written("hw4_vit", ("import math", "boom")))
    (folder / "Kim_123_assignsubmission_file_").mkdir()
    archive(folder / "Kim_123_assignsubmission_file_" / "2024-1.zip", ALL)
    (folder / "damaged.zip").write_bytes(b"no archive")
    archive(folder / "a (1).zip", {"hw4_vit.ipynb": written("hw4_vit")})
    os.utime(folder / "a (1).zip", (time.time() + 60,) * 2)
    (folder / os.fsdecode(b"\xff.zip")).write_bytes(b"no archive")
    main.grade_folder(folder, out, True, Points())
    found = {row["student"]: row for row in rows(out)}
    assert len(found) == 5 and found["a"]["total"] == "5.0" and found["a"]["total at most"] != "5.0"
    assert "several times" in found["a"]["notes"] and "is damaged" in found["damaged"]["notes"]
    assert "a person should look" in found["b"]["notes"] and found["Kim_123"]["3b"] == "5.0"
    assert "several heads" in found["a"]["not judged"]
    assert "5 to 10" in (out / "a" / "report.txt").read_text(encoding="utf-8")
    stored = json.loads((out / "a" / "results.json").read_text(encoding="utf-8"))
    assert stored["score"] == 5 and {t["number"]: t["max_score"] for t in stored["tests"]}["3b"] == 10
    notebook = nbformat.read(out / "a" / "hw4_vit.feedback.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert "3a" in notebook.cells[1].source and r"\<b\>" in notebook.cells[1].source
    assert "3b" in (out / "statistics.txt").read_text(encoding="utf-8")
    (out / "a" / "report.txt").write_text("kept", encoding="utf-8")
    main.grade_folder(folder, out, True, Points())
    assert (out / "a" / "report.txt").read_text(encoding="utf-8") == "kept"
    main.regrade(out, Points("3b=20,3a=0"))
    assert {row["student"]: row for row in rows(out)}["a"]["3b"] == "10.0"


def test_after_an_interruption_what_is_whole_is_kept_and_the_rest_goes_on(tmp_path, monkeypatch):
    folder, out, begun = tmp_path / "in", tmp_path / "out", []
    hand_in(folder, **{f"s{i}": written("hw4_vit") for i in range(6)})

    def grade(notebook, which, isolated):
        begun.append(threading.current_thread().name)
        if len(begun) == 3:
            runner.stopping.set()  # as Ctrl-C does
            raise runner.Stopped
        return Grade(which, [Finding("3a", "", PASSED)])

    monkeypatch.setattr(main, "grade_notebook", grade)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    with pytest.raises(SystemExit, match="goes on with the rest"):
        main.grade_folder(folder, out, True, Points())
    runner.stopping.clear()
    assert len(rows(out)) == 2 == len(list(out.glob("*/record.json")))
    main.grade_folder(folder, out, True, Points())
    assert len(rows(out)) == 6 and len(begun) == 7


def test_a_stopped_grading_ends_at_once(monkeypatch):
    runner.stopping.set()
    process = runner.Process(False)
    try:
        with pytest.raises(runner.Stopped):
            process.answer(100)
    finally:
        runner.stopping.clear()
        process.end()


def test_texts_of_notebooks_can_neither_steer_a_terminal_nor_a_spreadsheet():
    assert "\x1b" not in report.clean("a\x1b[31m\nb") and "\n" not in report.clean("a\nb")
    for formula in ("=1+1", "+1", "-1", "@x", " =1", "\t=1"):
        assert str(report.cell_safe(formula)).startswith("'") or report.cell_safe(formula) == formula.strip() != formula
    assert report.cell_safe(5) == 5 and report.cell_safe("Kim") == "Kim"


@pytest.mark.parametrize("text", ("3x=1", "3b", "3b=-1", "3b=x"))
def test_points_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match="expected a question and its points"):
        Points(text)


def test_the_made_notebooks_are_whole():
    assert all(made(name)["cells"] for name in COURSE)
