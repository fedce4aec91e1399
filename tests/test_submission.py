"""The submission holds what the notebooks need, and is refused while something is not ready."""

import json
import re
import subprocess
import sys
import zipfile

import nbformat
import pytest
from conftest import read

from tools import submission
from tools.notebooks import TASKS, fingerprint, tags
from tools.standalone import TAG
from tools.submission import faults, pack


@pytest.mark.parametrize("student", ("", "2024", "2024-2000", "2024-20000.zip", "../2024-20000"))
def test_a_student_id_of_another_form_is_refused(tmp_path, student):
    with pytest.raises(ValueError, match="expected the form 2024-20000"):
        pack(student, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "fault"),
    (
        (lambda n: n.cells[-1].update(source=""), "cell .* is empty"),
        (lambda n: n.cells[0].update(source="TODO: think"), r"cell 0, line 1: leftover 'TODO: think'"),
        (lambda n: n.cells[2].update(source=n.cells[2].source + "\n# print(x)"), r"leftover '# print\(x\)'"),
        (lambda n: n.cells[2].update(source="x = 1"), "its outputs are not those of its code"),
        (lambda n: n.cells[2].update(execution_count=7), "not run once from top to bottom"),
        (lambda n: [c.update(outputs=[]) for c in n.cells if c.cell_type == "code"], "it states 0 results"),
    ),
)
def test_what_is_not_ready_is_named(spoil, fault):
    notebook = read("hw4_vit")
    spoil(notebook)
    assert re.search(fault, "\n".join(faults("hw4_vit", notebook)))


@pytest.mark.parametrize(
    ("change", "fault"), (({"data": "sample"}, "is on sample data"), ({"passed": False}, "the target is 70"))
)
def test_a_result_on_samples_or_below_the_target_is_refused(change, fault):
    result = {"data": "real", "passed": True, "metric": "test accuracy (%)", "value": 69.0, "target": 70.0} | change
    output = nbformat.v4.new_output("stream", text="RESULT " + json.dumps(result))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", execution_count=1, outputs=[output])])
    notebook.metadata["hw4"] = {"fingerprint": fingerprint(notebook)}
    (found,) = faults("hw4_rnn", notebook)
    assert fault in found


def test_the_zip_holds_notebooks_that_run_alone_and_the_packages_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "faults", lambda name, notebook: [])
    with zipfile.ZipFile(pack("2024-20000", tmp_path)) as archive:
        names = archive.namelist()
        notebooks = {name: nbformat.reads(archive.read(f"{name}.ipynb").decode(), as_version=4) for name in TASKS}
    assert [path.name for path in tmp_path.iterdir()] == ["2024-20000.zip"] and len(names) == len(set(names))
    tops = {name.split("/")[0] for name in names}
    assert tops == {f"{name}.ipynb" for name in TASKS} | {"common", "data", "requirements.txt", "README.md", "LICENSE"}
    for name, notebook in notebooks.items():
        assert tags(notebook.cells[0]) == {TAG} and notebook.cells[1:] == read(name).cells
        assert "common/install.py" in notebook.cells[0].source and "common/install.py" in names


def test_a_folder_that_cannot_be_written_ends_in_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(submission, "faults", lambda name, notebook: [])
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["submission", "2024-20000", "--out", str(tmp_path / "file")])
    assert submission.main() == 1
    assert "2024-20000.zip was not written" in capsys.readouterr().err


def test_in_the_unzipped_folder_the_first_cell_finds_its_files_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "faults", lambda name, notebook: [])
    with zipfile.ZipFile(pack("2024-20000", tmp_path)) as archive:
        archive.extractall(tmp_path / "unzipped")
    for name in TASKS:
        cell = nbformat.read(tmp_path / "unzipped" / f"{name}.ipynb", as_version=4).cells[0].source
        command = [sys.executable, "-c", cell]
        done = subprocess.run(command, cwd=tmp_path / "unzipped", capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
