"""The setup cell as a student in Colab meets it, with a stand-in for ``google.colab``; and what it installs."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT, read
from packaging.requirements import Requirement

from common import install

# What Colab is to the cell: the module google.colab, whose drive.mount makes Drive's folder appear.
COLAB = """
import os, sys, types
colab, drive = types.ModuleType("google.colab"), types.ModuleType("google.colab.drive")
mounted = []
def mount(place):
    mounted.append(place)
    if os.path.isdir("hidden-drive"):
        os.rename("hidden-drive", "drive")
drive.mount, colab.drive = mount, drive
sys.modules |= {"google": types.ModuleType("google"), "google.colab": colab, "google.colab.drive": drive}
"""
RUN = """
import json
namespace = {}
for _ in range(TIMES):
    exec(CELL, namespace)
import common.loss
print(json.dumps({"cwd": os.getcwd(), "mounted": mounted, "common": common.loss.__file__}))
"""


def run(folder: Path, times: int = 1, colab: bool = True, **form: str) -> subprocess.CompletedProcess:
    """Run the setup cell in a fresh Python that starts in ``folder``, with the form filled in."""
    cell = next(cell.source for cell in read("hw4_vit").cells if cell.cell_type == "code")
    for name, value in form.items():
        (line,) = [line for line in cell.splitlines() if line.startswith(f"{name} = ")]
        cell = cell.replace(line, f"{name} = {value!r}")
    program = (COLAB if colab else "import os; mounted = []") + RUN.replace("TIMES", str(times))
    return subprocess.run(
        [sys.executable, "-c", program.replace("CELL", repr(cell))], cwd=folder, capture_output=True, text=True
    )


def put_project(folder: Path) -> Path:
    for part in ("common", "data"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("cache", "__pycache__"))
    shutil.copy(ROOT / "requirements.txt", folder)
    return folder


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository whose tag ``v1`` lacks the file ``later``."""
    folder = put_project(tmp_path / "origin")

    def git(*words: str) -> None:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        subprocess.run(["git", "-C", str(folder), *who, *words], check=True)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "v1")
    (folder / "later").touch()
    git("add", ".")
    git("commit", "-qm", "second")
    return folder


@pytest.mark.parametrize("times", (1, 2))
def test_opened_from_drive_it_mounts_once_and_changes_to_the_folder(tmp_path, times):
    put_project(tmp_path / "hidden-drive" / "hw4")
    done = run(tmp_path, times, DRIVE_FOLDER=f"{tmp_path}/drive/hw4")
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["cwd"] == f"{tmp_path}/drive/hw4" and said["mounted"] == ["/content/drive"]
    assert said["common"].startswith(said["cwd"])


@pytest.mark.parametrize(("ref", "later"), (("main", True), ("v1", False), ("commit of v1", False)))
def test_opened_from_a_git_address_it_takes_the_branch_tag_or_commit_asked_for(tmp_path, repository, ref, later):
    if ref == "commit of v1":
        command = ["git", "-C", str(repository), "rev-parse", "v1"]
        ref = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    (tmp_path / "content").mkdir()
    said = json.loads(run(tmp_path / "content", GIT_URL=str(repository), GIT_REF=ref).stdout.splitlines()[-1])
    assert said["cwd"] == f"{tmp_path}/content/hw4" and said["mounted"] == []
    assert (tmp_path / "content" / "hw4" / "later").exists() is later


def test_run_again_after_a_restart_it_clones_nothing_and_keeps_what_lies_there(tmp_path, repository):
    assert run(tmp_path, GIT_URL=str(repository), GIT_REF="v1").returncode == 0
    (tmp_path / "hw4" / "my-notes").touch()
    shutil.move(repository, tmp_path / "gone")
    done = run(tmp_path, times=2, GIT_URL=str(repository), GIT_REF="main")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hw4" / "my-notes").exists() and (tmp_path / "hw4" / "later").exists()


@pytest.mark.parametrize("form", ({"GIT_URL": "/no/such/repository"}, {"GIT_REF": "no-such-tag"}))
def test_a_git_address_or_tag_that_is_not_there_is_named(tmp_path, repository, form):
    done = run(tmp_path, **{"GIT_URL": str(repository)} | form)
    assert done.returncode and str(*form.values()) in done.stderr


@pytest.mark.parametrize("colab", (True, False))
def test_opened_alone_it_says_what_to_upload_or_fill_in(tmp_path, colab):
    done = run(tmp_path, colab=colab, DRIVE_FOLDER="/content/drive/MyDrive/course")
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("FileNotFoundError") and done.returncode
    for said in ("upload the whole project to Drive as /content/drive/MyDrive/course", "GIT_URL", "start Jupyter in"):
        assert said in message


def test_in_the_projects_folder_it_installs_nothing_and_goes_nowhere():
    done = run(ROOT, times=2, colab=False)
    assert json.loads(done.stdout)["cwd"] == str(ROOT), done.stderr  # its only line: nothing is said or installed


# ------------------------------------------------------------------------------------ installing


def installing(monkeypatch, tmp_path, requirements: str, status: int = 0) -> tuple[list[str], list[list[str]]]:
    """What ``install_missing`` returns, and the commands it would have run."""
    commands = []
    monkeypatch.setattr(
        install.subprocess, "run",
        lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, status, "", "no network"),
    )  # fmt: skip
    (tmp_path / "requirements.txt").write_text(requirements)
    return install.install_missing(tmp_path / "requirements.txt"), commands


def test_only_what_is_missing_is_installed_and_torch_stays_as_it_is(monkeypatch, tmp_path):
    requirements = "# a comment\ntorch>=99  # even if it is too old\n\nnumpy>=1\nnosuchpackage==1.2\n"
    missing, (command,) = installing(monkeypatch, tmp_path, requirements)
    assert missing == ["nosuchpackage==1.2"]
    packages = [word for word in command[command.index("install") + 1 :] if not word.startswith("-")]
    assert packages == ["nosuchpackage==1.2", f"torch=={version('torch')}"]


def test_a_pinned_package_of_another_version_is_replaced(monkeypatch, tmp_path):
    assert installing(monkeypatch, tmp_path, "torchtext==0.18.0\n")[0] == ["torchtext==0.18.0"]


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
