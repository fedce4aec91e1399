"""The setup cell as a student meets it, and what it installs."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT, read
from packaging.requirements import Requirement

from common import install

END = "\nimport common.loss; print(common.loss.__file__, getattr(common.loss, 'MARKER', 1), *installed)"


def run(folder: Path, times: int = 1, **form: str) -> subprocess.CompletedProcess:
    """Run the setup cell in a fresh IPython that starts in ``folder``, its form filled in."""
    cell = next(cell.source for cell in read("hw4_vit").cells if cell.cell_type == "code")
    for name, value in form.items():
        (line,) = [line for line in cell.splitlines() if line.startswith(f"{name} = ")]
        cell = cell.replace(line, f"{name} = {value!r}")
    (folder / "cell.ipy").write_text((f"{cell}\n" * times) + END, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "cell.ipy"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def put_project(folder: Path) -> Path:
    for part in ("common", "data"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("cache", "__pycache__"))
    shutil.copy(ROOT / "requirements.txt", folder)
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository whose tag ``v1`` lacks the second commit's ``MARKER`` in ``common/loss.py``."""
    folder = put_project(tmp_path_factory.mktemp("setup") / "origin")

    def git(*words: str) -> None:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        here = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        here["GIT_CONFIG_GLOBAL"] = os.devnull
        subprocess.run(["git", "-C", str(folder), *who, *words], check=True, env=here)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "v1")
    with (folder / "common" / "loss.py").open("a", encoding="utf-8") as file:
        file.write("\nMARKER = 2\n")
    git("commit", "-qam", "second")
    return folder


@pytest.mark.parametrize(("ref", "marker"), (("main", 2), ("v1", 1)))
def test_opened_from_a_git_address_it_takes_the_branch_or_tag_asked_for(tmp_path, repository, ref, marker):
    done = run(tmp_path, GIT_URL=str(repository), GIT_REF=ref, times=2)  # again, it goes nowhere else
    assert done.stdout == f"{tmp_path}/hw4/common/loss.py {marker}\n", done.stdout + done.stderr


@pytest.mark.parametrize("form", ({}, {"GIT_URL": "/no/such/repository"}))
def test_opened_alone_it_says_what_is_missing_and_what_to_do(tmp_path, form):
    done = run(tmp_path, **form)
    assert done.returncode and "common/" in done.stdout + done.stderr
    assert form or re.search("GIT_URL or .* standalone file", done.stdout + done.stderr)


def test_in_the_projects_folder_it_installs_nothing_and_prints_nothing(tmp_path):
    done = run(put_project(tmp_path), times=2)
    assert done.stdout == f"{tmp_path}/common/loss.py 1\n", done.stdout + done.stderr


# ------------------------------------------------------------------------------------ installing


def installing(monkeypatch, tmp_path, requirements: str, status: int = 0) -> tuple[list[str], list[list[str]]]:
    """What ``install_missing`` returns, and the commands it would have run."""
    commands = []

    def pip(command: list[str], **_) -> subprocess.CompletedProcess:
        commands.append(command)
        return subprocess.CompletedProcess(command, status, "", "no network")

    monkeypatch.setattr(install.subprocess, "run", pip)
    (tmp_path / "requirements.txt").write_text(requirements, encoding="utf-8")
    return install.install_missing(tmp_path / "requirements.txt"), commands


@pytest.mark.parametrize(
    ("requirement", "here", "answer"),
    (
        ("torch>=9.9", "2.9.0", True),
        ("torch>=2.9", "2.9.0+cu128", False),
        ("torch>=2.10", "2.9.0", True),
        ("torch", "2.9.0", False),
        ("torchtext==0.6.0", "0.18.0", True),
    ),
)
def test_bounds_are_compared_with_the_version_that_is_here(monkeypatch, requirement, here, answer):
    assert install.lacks("nosuchpackage")
    monkeypatch.setattr(install, "version", lambda name: here)
    assert install.lacks(requirement) is answer


def test_what_is_missing_or_too_old_is_installed_and_torch_stays_as_it_is(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "numpy", install)
    requirements = "# a comment\ntorch>=99  # too old, and still kept\n\nnumpy>=99\nnosuchpackage==1.2\n"
    missing, (command,) = installing(monkeypatch, tmp_path, requirements)
    assert missing == ["numpy>=99", "nosuchpackage==1.2"]
    packages = [word for word in command[command.index("install") + 1 :] if not word.startswith("-")]
    assert packages == [*missing, f"torch=={version('torch')}"]
    printed = capsys.readouterr().out
    assert "torch>=99 was asked for" in printed and "numpy>=99 replaced a version that is in use" in printed


def test_with_everything_there_or_torch_alone_too_old_pip_is_not_called(monkeypatch, tmp_path):
    for requirements in ((ROOT / "requirements.txt").read_text(encoding="utf-8"), "torch>=99\n"):
        assert installing(monkeypatch, tmp_path, requirements) == ([], [])


def test_an_installation_that_fails_says_what_pip_said(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="could not install nosuchpackage: no network"):
        installing(monkeypatch, tmp_path, "nosuchpackage\n", status=1)


@pytest.mark.parametrize(("tensorboard", "setuptools", "warned"), (("2.20.0", "82.0", True), ("2.20.0", "75.2", False)))
def test_a_setuptools_beside_which_tensorboard_fails_is_named(
    monkeypatch, tmp_path, capsys, tensorboard, setuptools, warned
):
    here = {"tensorboard": tensorboard, "setuptools": setuptools, "torch": "2.9"}
    monkeypatch.setattr(install, "version", here.__getitem__)
    installing(monkeypatch, tmp_path, "torch\n")
    assert ('pip install "setuptools<82"' in capsys.readouterr().out) is warned


def test_a_stock_colab_lacks_torchtext_alone():
    """``constraints.txt`` lists the stock versions, and the torchtext that is put beside them."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    stock = dict(line.split("==") for line in pins if "==" in line)
    torchtext = stock.pop("torchtext")
    wanted = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = {r.name: r.specifier for r in map(Requirement, (line for line in wanted if not line.startswith("#")))}
    assert asked.keys() - stock.keys() == {"torchtext"} and asked.pop("torchtext").contains(torchtext)
    assert all(specifier.contains(stock[name]) for name, specifier in asked.items())
