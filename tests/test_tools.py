"""Standalone notebooks, the submission, the addresses of a public copy, and the picture of the README."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import zipfile

import nbformat
import pytest
from conftest import FORBIDDEN, ROOT, read
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tools import overview, publish, standalone, submission
from tools.notebooks import TASKS, fingerprint, tags

FILES = {"common/__init__.py": '"""One."""\n', "common/tool.py": "X = r'\\n'  # é\n", "requirements.txt": "numpy\n"}


def result(**other) -> nbformat.NotebookNode:
    stated = {"part": "assignment", "data": "real", "passed": True, "metric": "accuracy", "value": 69.0, "target": 70.0}
    return new_output("stream", text="RESULT " + json.dumps(stated | other))


def small_notebook(**other) -> nbformat.NotebookNode:
    """A notebook in two parts that may be handed in."""
    badge = f"[![Open in Colab]({publish.COLAB}/assets/colab-badge.svg)]({publish.COLAB}/#upload=true)"
    cells = [
        new_markdown_cell(f"# Title\n\n{badge}\n[one](#References-and-collaborators), [two](#Limits)"),
        new_code_cell('# @title Setup\nGIT_URL = ""  # @param\nGIT_REF = "main"  # @param', execution_count=1),
        new_code_cell("import common.tool", execution_count=2, outputs=[result(**other)]),
        new_code_cell("2", execution_count=3, outputs=[new_output("execute_result", execution_count=3)]),
        new_markdown_cell("# Part II: Going further"),
        new_code_cell("import common.more", execution_count=4),
        new_markdown_cell("## References and collaborators\nNobody."),
        new_markdown_cell("## Limits"),
    ]
    return new_notebook(cells=cells)


@pytest.fixture
def project(tmp_path):
    """A project with three such notebooks."""
    files = FILES | {"common/more.py": "", "README.md": "".join(f"{name}.ipynb {badge()}\n" for name in TASKS)}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in TASKS:
        notebook = small_notebook()
        notebook.metadata["hw4"] = {"fingerprint": fingerprint(notebook, tmp_path)}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    return tmp_path


def badge() -> str:
    return small_notebook().cells[0].source.splitlines()[2]


# ------------------------------------------------------------------------------------ standalone


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def write_files(folder, *cells: str) -> str:
    """Run cells in a folder, in a fresh Python that takes files for ASCII unless told; returns what they print."""
    (folder.parent / "cells.py").write_text("\n".join(cells), encoding="utf-8")
    environment = os.environ | {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "../cells.py"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def files_in(folder) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_the_cell_writes_what_is_missing_and_keeps_and_names_what_differs(empty):
    cell = standalone.module_cell(FILES)
    assert write_files(empty, cell, cell) == "" and files_in(empty) == FILES
    (empty / "common" / "tool.py").write_text("mine = 1\n", encoding="utf-8")
    assert write_files(empty, cell).startswith("common/tool.py is kept, though not as in this notebook")
    assert files_in(empty) == FILES | {"common/tool.py": "mine = 1\n"}


@pytest.mark.parametrize("text", ("a = '''b'''\n", "no line feed"))
def test_a_text_that_the_cell_could_not_hold_is_refused(text):
    with pytest.raises(ValueError, match=r"common/tool\.py: expected a line feed"):
        standalone.module_cell({"common/tool.py": text})


@pytest.mark.parametrize("name", TASKS)
def test_all_but_the_first_cell_is_the_saved_notebook(name, empty):
    made, saved = standalone.standalone(read(name)), read(name)
    assert tags(made.cells[0]) == {standalone.TAG} and made.cells[1:] == saved.cells
    assert not re.search(FORBIDDEN[name], made.cells[0].source)
    write_files(empty, made.cells[0].source)
    written = files_in(empty)
    assert written == {file: (ROOT / file).read_text(encoding="utf-8") for file in written}
    assert {"common/install.py", "common/files.py", "requirements.txt"} <= written.keys()


# ------------------------------------------------------------------------------------ submission


@pytest.mark.parametrize("student", ("", "2024", "2024-2000", "2024-20000.zip", "../2024-20000"))
def test_a_student_id_of_another_form_is_refused(tmp_path, student):
    with pytest.raises(ValueError, match="expected the form 2024-20000"):
        submission.pack(student, tmp_path)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    (
        (lambda n: n.cells[-1].update(source=" "), "cell 7 is empty"),
        (lambda n: n.cells[0].update(source="TODO: think"), "cell 0: leftover 'TODO'"),
        (lambda n: n.cells[2].update(source=n.cells[2].source + "\n# print(x)"), r"leftover '# print\('"),
        (lambda n: n.cells[2].update(source="x = 1"), "its outputs are not those of its code"),
        (lambda n: n.cells[2].update(execution_count=7), "not run once from top to bottom"),
        (lambda n: n.cells[2].update(outputs=[]), "it states 0 results of the assignment"),
        (lambda n: n.cells[2].update(outputs=[result(data="sample")]), "is on sample data, expected real"),
        (lambda n: n.cells[2].update(outputs=[result(passed=False)]), "accuracy is 69.0, the target is 70.0"),
    ),
)
def test_what_is_not_ready_is_named_and_nothing_packed(project, spoil, fault):
    notebook = read("hw4_vit", project)
    spoil(notebook)
    nbformat.write(notebook, project / "hw4_vit.ipynb")
    with pytest.raises(ValueError, match=f"hw4_vit: .*{fault}"):
        submission.pack("2024-20000", project / "out", project)
    assert not (project / "out").exists()


def test_the_zip_holds_part_one_alone_with_its_outputs_and_what_it_imports(project):
    with zipfile.ZipFile(submission.pack("2024-20000", project / "out", project)) as archive:
        files = archive.namelist()
        notebooks = [nbformat.reads(archive.read(f"{name}.ipynb").decode(), as_version=4) for name in TASKS]
    packed = {f"{name}.ipynb" for name in TASKS} | {"requirements.txt"}
    assert set(files) == packed | {"common/__init__.py", "common/tool.py", "common/more.py"}
    for modules, *cells, references in [notebook.cells for notebook in notebooks]:
        assert "common/tool.py" in modules.source and "common/more.py" not in modules.source
        assert [cell.source for cell in cells[1:]] == [cell.source for cell in small_notebook().cells[1:4]]
        assert cells[0].source.endswith("\n[one](#References-and-collaborators), two")
        assert [cell.execution_count for cell in [modules, *cells[1:]]] == [1, 2, 3, 4]
        assert cells[2].outputs == [result()] and cells[3].outputs[0].execution_count == 4
        assert references.source == "## References and collaborators\nNobody."


@pytest.mark.parametrize("name", TASKS)
def test_part_one_of_a_saved_notebook_ends_before_the_second_and_names_its_sources(name):
    cells = submission.part_one(read(name)).cells
    text = "\n".join(cell.source for cell in cells)
    assert re.match("#+ References", cells[-1].source) and "session.report(" in text
    assert len([cell for cell in cells if cell.cell_type == "code"]) > 10


# ------------------------------------------------------------------------------------ publishing


def test_every_badge_and_setup_cell_leads_to_the_repository_and_back_again_to_every_byte(project):
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in project.iterdir() if path.is_file()}

    before = contents()
    assert len(publish.publish("some-body/home.work_4", "v1.2", project)) == 4
    for name in TASKS:
        notebook, address = read(name, project), f"github/some-body/home.work_4/blob/v1.2/{name}.ipynb"
        assert f"({publish.COLAB}/{address})" in notebook.cells[0].source
        assert f"{name}.ipynb [![" in (
            line := (project / "README.md").read_text().splitlines()[list(TASKS).index(name)]
        )
        assert address in line and 'GIT_REF = "v1.2"  # @param' in notebook.cells[1].source
        assert 'GIT_URL = "https://github.com/some-body/home.work_4"  # @param' in notebook.cells[1].source
        assert fingerprint(notebook, project) == notebook.metadata["hw4"]["fingerprint"]
    assert len(publish.publish("", "dev", project)) == 4 and contents() == before


@pytest.mark.parametrize(
    ("repository", "ref"),
    (
        ("owner", "main"),
        ("owner/name/tree", "main"),
        ("owner/..", "main"),
        ("https://github.com/owner/name", "main"),
        ("owner/name?x", "main"),
        ("owner/name", "-x"),
        ("owner/name", "a..b"),
        ("owner/name", 'a"b'),
    ),
)
def test_an_unknown_form_of_address_is_refused(project, repository, ref):
    with pytest.raises(ValueError, match="expected"):
        publish.publish(repository, ref, project)


def test_a_notebook_without_a_place_for_the_address_is_named_and_nothing_written(project):
    path = project / "hw4_vit.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("GIT_REF", "REF"), encoding="utf-8")
    with pytest.raises(ValueError, match="hw4_vit has 1 badges, 1 GIT_URL and 0 GIT_REF"):
        publish.publish("owner/name", root=project)
    assert "owner/name" not in (project / "hw4_rnn.ipynb").read_text(encoding="utf-8")


def test_what_is_committed_leads_where_its_setup_cells_say():
    for name in TASKS:
        title, setup = read(name).cells[0].source, next(c.source for c in read(name).cells if c.cell_type == "code")
        url = re.search(r'(?m)^GIT_URL = "(?:https://github.com/)?(.*?)"', setup)[1]
        place = f"github/{url}/blob/" if url else "#upload=true"
        assert publish.BADGE.search(title)[0].split("](")[-1].startswith(f"{publish.COLAB}/{place}")


# ------------------------------------------------------------------------------------ picture


def test_a_figure_is_found_by_the_first_words_of_its_description():
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG")
    data, alt = {"image/png": base64.b64encode(file.getvalue()).decode()}, {"image/png": {"alt": "Figure: Loss (nats)"}}
    notebook = new_notebook(cells=[new_code_cell(outputs=[new_output("display_data", data, metadata=alt)])])
    assert overview.figure(notebook, "Figure: Loss", 0).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ValueError, match="no figure begins with 'Figure: Accuracy'; there are Figure: Loss"):
        overview.figure(notebook, "Figure: Accuracy", 0)
