"""The notebooks run from top to bottom on generated samples, without a network, whatever settings people try."""

import os
import sys
import urllib.request

import nbformat
import pytest
import torch
from conftest import read

from common.training import Run
from tools import run_notebooks, submission
from tools.notebooks import TASKS, results, run_cell, tags
from tools.standalone import standalone

SETTINGS = """
from dataclasses import dataclass
from common.config import FURTHER, Shared, check, configure
@dataclass(frozen=True)
class Config(Shared):
    epochs: int = 3
    def __post_init__(self):
        check(self)
@dataclass(frozen=True)
class Further:
    epochs: int = 9
"""
RESULTS = """
import json, os
config, further = configure(Config), configure(Further, FURTHER)
settings = {name: value for name, value in os.environ.items() if name.startswith("HW4_")}
for part in ("assignment", "further"):
    stated = {"part": part, "data": config.data, "settings": settings, "metric": "accuracy", "value": 71.0}
    print("RESULT", json.dumps(stated | {"target": 70.0, "passed": config.epochs < 9, "seconds": 2.0}))
"""
CHANGE = """
import nbformat
notebook = nbformat.read("hw4_vit.ipynb", 4)
notebook.cells.append(nbformat.v4.new_code_cell("1"))
nbformat.write(notebook, "hw4_vit.ipynb")
"""


def put(project, *sources):
    cells = [nbformat.v4.new_code_cell(SETTINGS, metadata={"tags": ["define"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project / "hw4_vit.ipynb")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook that states the settings it is given."""
    put(tmp_path, RESULTS)
    (tmp_path / "runs").mkdir()
    (tmp_path / "common").symlink_to(run_notebooks.ROOT / "common")
    for module in ("tools.run_notebooks", "tools.notebooks"):
        monkeypatch.setattr(f"{module}.ROOT", tmp_path)
    monkeypatch.setattr(run_notebooks, "BUILD", tmp_path / "build")
    monkeypatch.setattr(run_notebooks, "definitions", lambda name: definitions(name, read(name, tmp_path)))
    return tmp_path


definitions = run_notebooks.definitions


def call(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["run_notebooks", "hw4_vit", *words])
    return run_notebooks.main()


def test_settings_reach_the_notebook_and_the_table_shows_both_parts(project, monkeypatch, capsys):
    for name, value in {"HW4_RUNS": "runs", "HW4_DEVICE": "cpu", "HW4_EPOCHS": "7"}.items():
        monkeypatch.setenv(name, value)
    assert call(monkeypatch, "--set", "seed=2", "epochs=4", "further_epochs=5") == 0
    printed = capsys.readouterr().out
    assert "HW4_RUNS=runs in the environment is not used" in printed
    assert "hw4_vit on sample data with" not in printed and "epochs=4" in printed
    rows = [line.split() for line in printed.splitlines()[-2:]]
    assert rows == [
        ["hw4_vit", "sample", part, "accuracy", "71.00", "70", "yes", "2"] for part in ("assignment", "further")
    ]
    first, _ = results(read("hw4_vit", project / "build" / "sample"))
    own = {"HW4_SEED": "2", "HW4_EPOCHS": "4", "HW4_FURTHER_EPOCHS": "5", "HW4_DEVICE": "cpu"}
    assert first["settings"] == own | {"HW4_DATA": "sample", "HW4_RUNS": "build/runs"}
    assert not any((project / "runs").iterdir()) and os.environ["HW4_RUNS"] == "runs"


@pytest.mark.parametrize(
    ("words", "message"),
    (
        (
            ("--set", "epoch=3"),
            "epoch=3: no setting of hw4_vit: expected data_dir, device, epochs, further_",
        ),
        (("--set", "further_epoch=3"), "further_epoch=3: no setting of hw4_vit"),
        (("--set", "epochs=0"), "epochs is 0: expected more than 0"),
        (("--set", "further_epochs=x"), "HW4_FURTHER_EPOCHS is 'x': expected int"),
        (("--set", "data=real"), "data=real: choose it by --data (make: DATA=...)"),
        (("--set", "runs=here"), "runs=here: whatever is executed here writes below build/"),
        (("--set", "epochs"), "epochs: expected name=value"),
        (("--in-place", "--set", "epochs=1"), "epochs=1: a saved notebook shows its own settings"),
        (("hw4_vim",), "unknown notebook hw4_vim: expected hw4_rnn"),
    ),
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(project, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit):
        call(monkeypatch, *words)
    assert message in capsys.readouterr().err and not (project / "build").exists()


def test_a_misspelled_variable_of_the_environment_is_refused_as_well(project, monkeypatch, capsys):
    monkeypatch.setenv("HW4_EPOCSH", "3")
    with pytest.raises(SystemExit):
        call(monkeypatch)
    assert "epocsh=3: no setting of hw4_vit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "error"),
    (
        ((RESULTS, "1 / 0"), "ZeroDivisionError: division by zero"),
        (("1",), "it states []: expected a result for assignment and for further"),
        (("from dataclasses import replace\n" + RESULTS.replace("config.data,", "'sample',"),), "not all on real data"),
        ((RESULTS, CHANGE), "the code was changed while it ran"),
    ),
)
def test_what_may_not_be_published_is_an_error(project, sources, error):
    put(project, *sources)
    _, found = run_notebooks.execute("hw4_vit", "real", publish=True, build=project / "build")
    assert error in found


def test_a_result_below_its_target_and_an_error_fail_the_command_and_are_seen(project, monkeypatch, capsys):
    assert call(monkeypatch, "--set", "epochs=9") == 1 and capsys.readouterr().out.count(" no ") == 2
    put(project, "raise ValueError('oh')")
    assert call(monkeypatch) == 1 and "stopped after" in (printed := capsys.readouterr().out) and "oh" in printed


TENSORBOARD = """
import shlex, json, os, tempfile
from pathlib import Path
runs = "my runs\\\\1"
os.makedirs(runs)
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter(runs) as writer:
    writer.add_scalar("loss", 1.0, 1)
%load_ext tensorboard
%tensorboard --logdir {shlex.quote(runs)}
(info,) = Path(tempfile.gettempdir()).glob(".tensorboard-info/*.info")
port = json.loads(info.read_text())["port"]
import time, urllib.request
while (page := urllib.request.urlopen(f"http://localhost:{port}/data/plugin/scalars/tags").read()) == b"{}":
    time.sleep(0.5)  # it has not read the file yet
print(port, page.decode())
"""


@pytest.mark.slow
def test_tensorboard_shows_a_run_folder_with_a_space_and_ends_with_the_notebook(project):
    put(project, TENSORBOARD)
    assert run_notebooks.run_file(project / "hw4_vit.ipynb", project / "out.ipynb", project, {}) == ""
    cell = nbformat.read(project / "out.ipynb", as_version=4).cells[-1]
    port, page = next(o.text for o in cell.outputs if o.get("name") == "stdout").split(" ", 1)
    assert '"loss"' in page
    with pytest.raises(OSError):
        while True:  # it may take a moment to end
            urllib.request.urlopen(f"http://localhost:{port}").close()


# ------------------------------------------------------------------------------------ the notebooks themselves

ODD = {  # fewer than ten batches an epoch, one patch an image, sentences of four words, hardly any width
    "hw4_rnn": {"input_size": 4, "hidden_size": 4, "further_batch_size": 1000, "further_ablation_epochs": 1},
    "hw4_seq2seq": {"max_length": 5, "emb_dim": 4, "hid_dim": 4, "further_emb_dim": 4, "further_hid_dim": 4},
    "hw4_vit": {"patch_size": 32, "dim": 16, "depth": 1, "mlp_dim": 8, "further_batch_size": 1000},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_training_cell_run_again_takes_what_it_has_trained(name, run_cells, capsys):
    notebook = read(name)
    made = run_cells(name, notebook, whole=False)
    capsys.readouterr()
    cell = next(cell for cell in notebook.cells if "train" in tags(cell))
    before, epochs = [p.clone() for p in made["model"].parameters()], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "record", lambda run, **numbers: epochs.append(numbers))
        run_cell(name, 1000, cell, made)
    assert epochs == [] and all(map(torch.equal, before, made["model"].parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_odd_settings_end_no_notebook(name, tmp_path):
    settings = ODD[name] | {"batch_size": 1000, "epochs": 1, "further_epochs": 1}
    stated, error = run_notebooks.execute(name, "sample", settings, build=tmp_path)
    assert error == "" and [result["part"] for result in stated] == ["assignment", "further"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_part_one_alone_in_an_empty_folder_reaches_its_target(name, tmp_path):
    nbformat.write(standalone(submission.part_one(read(name))), tmp_path / "alone.ipynb")
    error = run_notebooks.run_file(tmp_path / "alone.ipynb", tmp_path / "out.ipynb", tmp_path, {"data": "sample"})
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (result,) = results(executed)
    assert error == "" and result["part"] == "assignment" and result["passed"]
    warnings = [o.text for cell in executed.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    assert warnings == []
