"""The notebooks run from top to bottom on generated samples, without a network, and reach their targets."""

import os
import subprocess
import sys

import nbformat
import pytest

from tools import run_notebooks
from tools.notebooks import ROOT

RESULT = """
import json, os
from pathlib import Path
folder = Path(os.environ["HW4_RUNS"], "vit", "sample")
folder.mkdir(parents=True)
settings = {name: value for name, value in os.environ.items() if name.startswith("HW4_")}
(folder / "result.json").write_text(json.dumps({"data": os.environ["HW4_DATA"], "settings": settings}))
"""


CHANGE = """
import nbformat
notebook = nbformat.read("hw4_vit.ipynb", 4)
notebook.cells.append(nbformat.v4.new_code_cell("1"))
nbformat.write(notebook, "hw4_vit.ipynb")
"""


def put(project, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project / "hw4_vit.ipynb")


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """A project with one notebook that writes the settings it is given as its result."""
    put(tmp_path, RESULT)
    (tmp_path / "runs").mkdir()
    for module in ("tools.run_notebooks", "tools.notebooks"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    monkeypatch.setenv("HW4_EPOCHS", "7")
    monkeypatch.setenv("HW4_RUNS", "runs")
    monkeypatch.setenv("HW4_DEVICE", "cpu")
    return tmp_path


def test_settings_reach_the_notebook_and_the_users_runs_are_left_alone(small_project):
    result = run_notebooks.execute("hw4_vit", "sample", {"seed": 2}, build=small_project / "build")
    expected = {"HW4_SEED": "2", "HW4_EPOCHS": "7", "HW4_RUNS": "build/runs", "HW4_DEVICE": "cpu", "HW4_DATA": "sample"}
    assert result["settings"].items() >= expected.items() and result["seconds"] > 0
    assert not any((small_project / "runs").iterdir()) and os.environ["HW4_RUNS"] == "runs"


def test_a_notebook_to_publish_is_executed_with_its_own_settings(small_project):
    result = run_notebooks.execute("hw4_vit", "real", build=small_project / "build", publish=True)
    assert result["settings"].keys() == {"HW4_DATA", "HW4_RUNS", "HW4_DEVICE"}


@pytest.mark.parametrize(
    ("sources", "error"),
    (
        ((RESULT, "1 / 0"), "ZeroDivisionError: division by zero"),
        (("1",), "it wrote no result.json"),
        ((RESULT.replace('os.environ["HW4_DATA"]', '"sample"'),), "its data is sample, expected real"),
        ((RESULT, CHANGE), "the code was changed while it ran"),
    ),
)
def test_what_may_not_be_published_is_an_error_even_where_an_older_result_lies(small_project, sources, error):
    put(small_project, *sources)
    folder = small_project / "build" / "runs" / "vit" / "gpu"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"passed": true, "data": "real"}')
    result = run_notebooks.execute("hw4_vit", "real", build=small_project / "build", publish=True)
    assert result["error"] == error and "passed" not in result


def test_a_misspelled_setting_ends_the_command_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_notebooks", "hw4_rnn", "--set", "epoch=3"])
    with pytest.raises(SystemExit):
        run_notebooks.main()
    assert "--set epoch=...: there is no such setting in hw4_rnn: agreement, batch_size" in capsys.readouterr().err


SHORTER = {  # trainings as short as their targets allow; hw4_vit is executed in test_standalone.py
    "hw4_rnn": {"HW4_BATCH_SIZE": "128"},
    "hw4_seq2seq": {"HW4_BATCH_SIZE": "128", "HW4_EPOCHS": "2", "HW4_ABLATION_DIM": "16"},
}


@pytest.mark.slow
@pytest.mark.xdist_group("executions")  # one after the other: each ends the TensorBoard servers started meanwhile
@pytest.mark.parametrize("name", SHORTER)
def test_the_notebook_runs_from_top_to_bottom_on_samples_and_reaches_its_target(name):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HW4_")} | SHORTER[name]
    command = [sys.executable, "-m", "tools.run_notebooks", "--data", "sample", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].split()[:2] == [name, "sample"]
