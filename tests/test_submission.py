"""The submission holds what the notebooks need, and is refused while something is not ready."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import read

from tools.notebooks import TASKS, code_hash
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
    ("change", "fault"), (({"data": "sample"}, "is on sample data"), ({"passed": False}, "the bar is 70"))
)
def test_a_result_on_samples_or_below_the_bar_is_refused(change, fault):
    result = {"data": "real", "passed": True, "metric": "test accuracy (%)", "value": 69.0, "bar": 70.0} | change
    output = nbformat.v4.new_output("stream", text="RESULT " + json.dumps(result))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", execution_count=1, outputs=[output])])
    notebook.metadata["hw4"] = {"code_sha256": code_hash(notebook)}
    (found,) = faults("hw4_rnn", notebook)
    assert fault in found


@pytest.mark.slow
def test_the_unzipped_folder_runs_by_itself(tmp_path):
    with zipfile.ZipFile(pack("2024-20000", tmp_path)) as archive:
        archive.extractall(tmp_path / "unzipped")
    names = {path.name for path in (tmp_path / "unzipped").iterdir()}
    assert names == {f"{name}.ipynb" for name in TASKS} | {"common", "data", "requirements.txt", "README.md"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HW4_", "PYTHONPATH"))}
    environment |= {"HW4_DATA": "sample", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", "hw4_vit.ipynb", "out.ipynb"]
    done = subprocess.run(
        command, cwd=tmp_path / "unzipped", env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "unzipped" / "runs" / "vit" / "result.json").is_file()
