"""The setup cell as a student in Colab meets it, with a stand-in for ``google.colab``; and what it installs."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT, read
from packaging.requirements import Requirement

from common import install
from tools.notebooks import TASKS

# What Colab is to the cell: the module google.colab, whose drive.mount makes Drive's folder appear, or is refused.
COLAB = """
import os, sys, types
colab, drive = types.ModuleType("google.colab"), types.ModuleType("google.colab.drive")
mounted = []
def mount(place):
    mounted.append(place)
    if REFUSED:
        raise RuntimeError("Error: credential propagation was unsuccessful")
    if os.path.isdir("hidden-drive"):
        os.rename("hidden-drive", "drive")
drive.mount, colab.drive = mount, drive
sys.modules |= {"google": types.ModuleType("google"), "google.colab": colab, "google.colab.drive": drive}
"""
RUN = """
import json
namespace = {}
for cell in CELLS:
    exec(cell, namespace)
    import common.loss
marker = getattr(common.loss, "MARKER", None)
print(json.dumps({"cwd": os.getcwd(), "mounted": mounted, "common": common.loss.__file__, "marker": marker}))
"""


def setup_cell(**form: str) -> str:
    """The setup cell with its form filled in."""
    cell = next(cell.source for cell in read("hw4_vit").cells if cell.cell_type == "code")
    for name, value in form.items():
        (line,) = [line for line in cell.splitlines() if line.startswith(f"{name} = ")]
        cell = cell.replace(line, f"{name} = {value!r}")
    return cell


def run(folder: Path, *cells: str, colab: bool = True, refused: bool = False) -> subprocess.CompletedProcess:
    """Run setup cells one after the other in a fresh Python that starts in ``folder``."""
    program = (COLAB.replace("REFUSED", str(refused)) if colab else "import os; mounted = []") + RUN
    command = [sys.executable, "-c", program.replace("CELLS", repr(cells))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def stated(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def put_project(folder: Path) -> Path:
    for part in ("common", "data"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("cache", "__pycache__"))
    shutil.copy(ROOT / "requirements.txt", folder)
    return folder


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository whose tag ``v1`` lacks the second commit's ``MARKER`` in ``common/loss.py``."""
    folder = put_project(tmp_path / "origin")

    def git(*words: str) -> None:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        subprocess.run(["git", "-C", str(folder), *who, *words], check=True)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "v1")
    with (folder / "common" / "loss.py").open("a") as file:
        file.write("\nMARKER = 2\n")
    git("commit", "-qam", "second")
    return folder


@pytest.mark.parametrize("times", (1, 2))
def test_opened_from_drive_it_mounts_once_and_changes_to_the_folder(tmp_path, times):
    put_project(tmp_path / "hidden-drive" / "hw4")
    found = stated(run(tmp_path, *[setup_cell(DRIVE_FOLDER=f"{tmp_path}/drive/hw4")] * times))
    assert found["cwd"] == f"{tmp_path}/drive/hw4" and found["mounted"] == ["/content/drive"]
    assert found["common"].startswith(found["cwd"])


@pytest.mark.parametrize(("ref", "marker"), (("main", 2), ("v1", None), ("commit of v1", None)))
def test_opened_from_a_git_address_it_takes_the_branch_tag_or_commit_asked_for(tmp_path, repository, ref, marker):
    if ref == "commit of v1":
        command = ["git", "-C", str(repository), "rev-parse", "v1"]
        ref = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    (tmp_path / "content").mkdir()
    found = stated(run(tmp_path / "content", setup_cell(GIT_URL=str(repository), GIT_REF=ref)))
    assert found["cwd"] == f"{tmp_path}/content/hw4" and found["mounted"] == [] and found["marker"] == marker


def test_run_again_with_another_ref_it_takes_that_one_and_reads_the_modules_again(tmp_path, repository):
    cells = [setup_cell(GIT_URL=str(repository), GIT_REF=ref) for ref in ("v1", "main")]
    assert stated(run(tmp_path, *cells))["marker"] == 2
    assert stated(run(tmp_path, *cells[::-1]))["marker"] is None


def test_after_a_restart_without_a_network_it_goes_on_with_what_it_fetched(tmp_path, repository):
    cell = setup_cell(GIT_URL=str(repository), GIT_REF="v1")
    stated(run(tmp_path, cell))
    (tmp_path / "hw4" / "my-notes").touch()
    shutil.move(repository, tmp_path / "gone")
    done = run(tmp_path, cell, cell)
    assert stated(done)["cwd"] == f"{tmp_path}/hw4" and (tmp_path / "hw4" / "my-notes").exists()
    assert "does not appear to be a git repository" in done.stdout


@pytest.mark.parametrize("form", ({"GIT_URL": "/no/such/repository"}, {"GIT_REF": "no-such-tag"}))
def test_a_git_address_or_tag_that_does_not_exist_is_refused_and_can_be_put_right(tmp_path, repository, form):
    good = {"GIT_URL": str(repository), "GIT_REF": "v1"}
    done = run(tmp_path, setup_cell(**good | form))
    assert done.returncode and str(*form.values()) in done.stderr and not (tmp_path / "hw4" / "common").exists()
    assert stated(run(tmp_path, setup_cell(**good)))["marker"] is None


def test_a_git_address_never_touches_a_repository_around_the_notebook(tmp_path, repository):
    before = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True).stdout
    (repository / "alone").mkdir()
    (repository / "alone" / "hw4").write_text("a file in the way")
    done = run(repository / "alone", setup_cell(GIT_URL=str(repository), GIT_REF="v1"), colab=False)
    assert "FileNotFoundError" in done.stderr
    assert subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True).stdout == before


@pytest.mark.parametrize(("colab", "refused"), ((True, False), (True, True), (False, False)))
def test_opened_alone_it_tells_the_ways_and_why_drive_failed(tmp_path, colab, refused):
    done = run(tmp_path, setup_cell(DRIVE_FOLDER="/content/drive/MyDrive/course"), colab=colab, refused=refused)
    assert done.returncode and done.stderr.count("Traceback") == 1
    message = done.stderr[done.stderr.index("FileNotFoundError") :]
    for way in ("standalone file", "GIT_URL", "upload and unzip", "/content/drive/MyDrive/course", "start Jupyter"):
        assert way in message
    assert ("Drive could not be mounted: Error: credential propagation was unsuccessful" in message) is refused


def test_in_the_projects_folder_it_installs_nothing_prints_nothing_and_goes_nowhere():
    done = run(ROOT, setup_cell(), setup_cell(), colab=False)
    assert stated(done)["cwd"] == str(ROOT) and len(done.stdout.splitlines()) == 1


def test_the_cell_is_the_same_everywhere_folded_and_saved_without_output():
    cells = [next(cell for cell in read(name).cells if cell.cell_type == "code") for name in TASKS]
    (source,) = {cell.source for cell in cells}
    assert source.startswith("# @title Setup\n") and len(source.splitlines()) <= 30
    assert all(cell.metadata.get("cellView") == "form" and cell.outputs == [] for cell in cells)


# ------------------------------------------------------------------------------------ installing


def installing(monkeypatch, tmp_path, requirements: str, status: int = 0) -> tuple[list[str], list[list[str]]]:
    """What ``install_missing`` returns, and the commands it would have run."""
    commands = []
    monkeypatch.setattr(
        install.subprocess,
        "run",
        lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, status, "", "no network"),
    )
    (tmp_path / "requirements.txt").write_text(requirements)
    return install.install_missing(tmp_path / "requirements.txt"), commands


@pytest.mark.parametrize(
    ("requirement", "answer"),
    (
        ("torch>=9.9", True),
        ("torch>=1.0", False),
        ("torch", False),
        ("numpy>=1,<99", False),
        ("numpy<1", True),
        ("torchtext==0.6.0", False),
        ("torchtext==0.18.0", True),
        ("nosuchpackage", True),
    ),
)
def test_bounds_are_compared_with_the_version_that_is_here(requirement, answer):
    assert install.lacks(requirement) is answer


def test_a_local_build_of_a_version_meets_its_bounds(monkeypatch):
    monkeypatch.setattr(install, "version", lambda name: "2.9.0+cu128")
    assert not install.lacks("torch>=2.9") and install.lacks("torch>=2.10")


def test_what_is_missing_or_too_old_is_installed_and_torch_stays_as_it_is(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "numpy", install)
    requirements = "# a comment\ntorch>=99  # too old, and still kept\n\nnumpy>=99\nnosuchpackage==1.2\n"
    missing, (command,) = installing(monkeypatch, tmp_path, requirements)
    assert missing == ["numpy>=99", "nosuchpackage==1.2"]
    packages = [word for word in command[command.index("install") + 1 :] if not word.startswith("-")]
    assert packages == [*missing, f"torch=={version('torch')}"]
    printed = capsys.readouterr().out
    assert "torch>=99 was asked for" in printed and "numpy>=99 replaced a version that is in use" in printed


def test_a_torch_that_is_too_old_alone_starts_no_pip(monkeypatch, tmp_path):
    assert installing(monkeypatch, tmp_path, "torch>=99\n") == ([], [])


def test_with_everything_there_pip_is_not_called(monkeypatch, tmp_path):
    assert installing(monkeypatch, tmp_path, (ROOT / "requirements.txt").read_text()) == ([], [])


def test_an_installation_that_fails_says_what_pip_said(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match=r"could not install nosuchpackage: no network"):
        installing(monkeypatch, tmp_path, "nosuchpackage\n", status=1)


def test_a_stock_colab_lacks_torchtext_alone():
    """``constraints.txt`` lists the stock versions, and the torchtext that is put beside them."""
    stock = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    torchtext = stock.pop("torchtext")
    wanted = (ROOT / "requirements.txt").read_text().splitlines()
    asked = {r.name: r.specifier for r in map(Requirement, (line for line in wanted if not line.startswith("#")))}
    assert asked.keys() - stock.keys() == {"torchtext"} and asked.pop("torchtext").contains(torchtext)
    assert all(specifier.contains(stock[name]) for name, specifier in asked.items())
