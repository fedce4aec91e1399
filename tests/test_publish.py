"""Badges and setup cells lead to the repository that was asked for, and back, with no other change to a notebook."""

import re
import shutil

import nbformat
import pytest
from conftest import ROOT, read

from tools.notebooks import TASKS, fingerprint
from tools.publish import publish


@pytest.fixture
def project(tmp_path):
    """A copy of notebooks and packages, with a README of three lines."""
    for name in TASKS:
        shutil.copy(ROOT / f"{name}.ipynb", tmp_path)
    (tmp_path / "README.md").write_text("<!-- colab -->\n1. Upload it.\n<!-- end of colab -->\n2. Run all.\n")
    for package in ("common", "data"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("cache", "__pycache__"))
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.*")) if path.is_file()}


def test_every_badge_and_setup_cell_leads_to_the_repository(project):
    publish("some-body/home.work_4", "v1.2", project)
    for name in TASKS:
        notebook = nbformat.read(project / f"{name}.ipynb", as_version=4)
        (badge,) = re.findall(r"\(https://colab\.research\.google\.com/(?!assets)(.*?)\)", notebook.cells[0].source)
        assert badge == f"github/some-body/home.work_4/blob/v1.2/{name}.ipynb"
        assert f"colab.research.google.com/{badge}" in (project / "README.md").read_text()
        namespace, setup = {}, next(cell.source for cell in notebook.cells if cell.cell_type == "code")
        exec("\n".join(line for line in setup.splitlines() if line.startswith("GIT_")), namespace)
        assert namespace["GIT_URL"] == "https://github.com/some-body/home.work_4" and namespace["GIT_REF"] == "v1.2"
        assert notebook.cells[1].source == read(name).cells[1].source and notebook.metadata == read(name).metadata
        assert [c.get("outputs") for c in notebook.cells] == [c.get("outputs") for c in read(name).cells]
        assert fingerprint(notebook, project) == fingerprint(read(name))


def test_there_and_back_again_leaves_every_byte(project):
    publish("", root=project)
    before = contents(project)
    assert len(publish("owner/name", "dev", project)) == 4 and contents(project) != before
    assert len(publish("", "dev", project)) == 4 and contents(project) == before
    assert publish("", root=project) == []


def test_what_is_committed_is_what_the_command_writes(project):
    shutil.copy(ROOT / "README.md", project)
    cell = next(cell.source for cell in read("hw4_rnn").cells if cell.cell_type == "code")
    address = re.search(r'GIT_URL = "(?:https://github.com/)?(.*?)"', cell)[1]
    assert publish(address, re.search(r'GIT_REF = "(.*?)"', cell)[1], project) == []


@pytest.mark.parametrize(
    ("repository", "ref"),
    (
        ("owner", "main"),
        ("owner/", "main"),
        ("/name", "main"),
        ("owner/name/tree", "main"),
        ("owner/..", "main"),
        ("https://github.com/owner/name", "main"),
        ("own er/name", "main"),
        ("owner/name?x", "main"),
        ("-o/name", "main"),
        ("owner/name", ""),
        ("owner/name", "-x"),
        ("owner/name", "a b"),
        ("owner/name", "a..b"),
        ("owner/name", 'a"b'),
    ),
)
def test_an_unknown_form_is_refused_and_nothing_written(project, repository, ref):
    before = contents(project)
    with pytest.raises(ValueError, match="expected"):
        publish(repository, ref, project)
    assert contents(project) == before


@pytest.mark.parametrize("missing", ("README.md", "hw4_vit.ipynb"))
def test_a_file_without_a_place_for_the_address_is_named_and_nothing_written(project, missing):
    path = project / missing
    path.write_text(path.read_text().replace("<!-- colab -->", "").replace("[![Open in Colab]", "[![Colab]"))
    before = contents(project)
    with pytest.raises(ValueError, match=rf"{missing}.* has 0 places"):
        publish("owner/name", root=project)
    assert contents(project) == before
