"""Tables in docs/ describe the code as it is: one whose commit is older than a change of what it is about is stale."""

import subprocess

import nbformat
import pytest

from tools import tables
from tools.notebooks import ROOT


def git(folder, *command):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *identity, *command], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_table_is_no_older_than_what_it_is_about(name):
    if not (ROOT / ".git").exists() or (ROOT / ".git" / "shallow").exists():
        pytest.skip("this copy of the project has no history to compare with")
    if not tables.is_written(name):
        pytest.skip(f"{tables.TABLES[name].page} says that make {name} has not been run for this version")
    changed = tables.changed_since(name)
    assert not changed, f"run make {name}: its table is older than the code in {', '.join(changed)}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with one page, one module and one notebook, and a table that has just been written."""
    monkeypatch.setattr(tables, "TABLES", {"speed": tables.Table("page.md", ("code.py", "hw.ipynb"))})
    (tmp_path / "page.md").write_text("# Speed\n\n<!-- speed -->\n<!-- end of speed -->\n")
    (tmp_path / "code.py").write_text("x = 1\n")
    cells = [nbformat.v4.new_code_cell("y = 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "hw.ipynb")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    tables.write("speed", ["| a |", "| --- |"], tables.current_commit("speed", tmp_path), tmp_path)
    git(tmp_path, "commit", "-q", "-am", "table")
    return tmp_path


def commit_change(project, path, old, new):
    text = (project / path).read_text()
    assert old in text
    (project / path).write_text(text.replace(old, new))
    git(project, "commit", "-q", "-am", "change")


def test_a_table_states_its_command_and_the_commit_it_started_on(project):
    first = git(project, "rev-parse", "--short", "HEAD~1").strip()
    page = (project / "page.md").read_text()
    assert page.startswith("# Speed\n\n<!-- speed -->\n| a |\n| --- |\n\n`make speed`, 20")
    assert page.endswith(f", commit {first}\n<!-- end of speed -->\n") and tables.changed_since("speed", project) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "stale"),
    (
        ("code.py", "x = 1", '"""What it is."""\n\nx = 1  # why', False),
        ("code.py", "x = 1", "x = 2", True),
        ("hw.ipynb", '"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}]', False),
        ("hw.ipynb", "y = 1", "y = 2", True),
        ("page.md", "# Speed", "# How fast", False),
    ),
)
def test_a_change_of_code_makes_the_table_stale_and_nothing_else_does(project, path, old, new, stale):
    commit_change(project, path, old, new)
    assert tables.changed_since("speed", project) == ([path] if stale else [])


def test_a_file_that_is_gone_makes_the_table_stale(project):
    git(project, "rm", "-q", "code.py")
    git(project, "commit", "-q", "-m", "less")
    assert tables.changed_since("speed", project) == ["code.py"]


def test_uncommitted_outputs_and_comments_leave_the_commit_unmarked(project):
    (project / "code.py").write_text("x = 1  # why\n")
    assert tables.current_commit("speed", project) == git(project, "rev-parse", "--short", "HEAD").strip()


def test_a_table_of_uncommitted_code_is_marked_and_stale(project):
    (project / "code.py").write_text("x = 3\n")
    commit = tables.current_commit("speed", project)
    assert commit.endswith(" with uncommitted changes")
    tables.write("speed", ["| a |"], commit, project)
    assert tables.changed_since("speed", project) == ["page.md: written with uncommitted changes"]


def test_a_page_without_markers_or_table_is_refused(project):
    (project / "page.md").write_text("# Speed\n")
    with pytest.raises(ValueError, match=r"page\.md has 0 places .* expected 1"):
        tables.write("speed", ["| a |"], "abc", project)
    with pytest.raises(ValueError, match="no table of make speed: run it"):
        tables.changed_since("speed", project)
