"""A standalone notebook brings its modules along, runs in an empty folder, and overwrites nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, read

from tools.notebooks import TASKS, fingerprint, tags
from tools.standalone import TAG, build, module_cell

FILES = {
    "common/__init__.py": '"""One."""\n',
    "common/tool.py": "X = r'\\n'  # é\n",
    "requirements.txt": "numpy\n",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("standalone")
    build(folder)
    return folder


def run(folder: Path, *cells: str, **environment: str) -> subprocess.CompletedProcess:
    """Run cells one after the other in a fresh Python whose working folder is ``folder``."""
    program = "namespace = {'__name__': '__main__'}\nfor cell in CELLS:\n    exec(cell, namespace)".replace(
        "CELLS", repr(cells)
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("HW4_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=bare | environment, capture_output=True, text=True, timeout=300
    )


def files_in(folder: Path) -> dict[str, str]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


@pytest.mark.parametrize("name", TASKS)
def test_all_but_the_first_cell_is_the_saved_notebook(built, name):
    made, saved = nbformat.read(built / f"{name}.ipynb", as_version=4), read(name)
    assert tags(made.cells[0]) == {TAG} and made.cells[0].metadata.cellView == "form"
    assert made.cells[1:] == saved.cells and made.metadata == saved.metadata
    made.cells = [cell for cell in made.cells if TAG not in tags(cell)]
    assert fingerprint(made) == fingerprint(saved)


@pytest.mark.parametrize("name", TASKS)
def test_in_an_empty_folder_it_finds_its_modules_and_data(built, name, tmp_path):
    cells = [cell for cell in nbformat.read(built / f"{name}.ipynb", as_version=4).cells if cell.cell_type == "code"]
    last = next(i for i, cell in enumerate(cells) if re.search(r"\b(ag_news|eng_fra|cifar10)\.\w+\(", cell.source))
    sources = [re.sub(r"(?m)^%.*$", "", cell.source) for cell in cells[: last + 1]]
    where = "import common.install, data; print(common.install.__file__, data.__file__)"
    done = run(tmp_path, *sources, where, HW4_DATA="sample", OMP_NUM_THREADS="1", MPLBACKEND="agg")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/common/install.py {tmp_path}/data/__init__.py"
    written = files_in(tmp_path)
    assert all(written[file] == (ROOT / file).read_text() for file in written if not file.startswith("runs/"))


@pytest.mark.parametrize("name", TASKS)
def test_the_modules_it_shows_name_no_forbidden_layer_or_loss(built, name):
    forbidden = {
        "hw4_rnn": r"nn\.(RNN|LSTM|GRU|Linear|Embedding|Dropout|\w+Loss)|(F|functional)\.(\w*cross_entropy|\w*loss)",
        "hw4_seq2seq": r"MultiheadAttention|Transformer|scaled_dot_product_attention",
        "hw4_vit": r"nn\.Dropout|MultiheadAttention|nn\.Transformer|scaled_dot_product_attention|nn\.\w+Loss",
    }[name]
    cell = nbformat.read(built / f"{name}.ipynb", as_version=4).cells[0].source
    assert not re.search(forbidden, cell)


def test_the_cell_writes_exactly_the_files_and_again_changes_and_prints_nothing(tmp_path):
    done = run(tmp_path, module_cell(FILES), module_cell(FILES))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and files_in(tmp_path) == FILES


def test_a_file_that_differs_is_kept_and_named(tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "tool.py").write_text("mine = 1\n")
    done = run(tmp_path, module_cell(FILES))
    assert "common/tool.py" in done.stdout and len(done.stdout.splitlines()) == 1
    assert files_in(tmp_path) == FILES | {"common/tool.py": "mine = 1\n"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    (
        ("X = r'", "X = = r'", "common/tool.py, line 1: invalid syntax"),
        ('PROJECT["common/tool.py"]', 'PROJECT["common/other.py"]', "expected common/__init__.py, common/tool.py"),
        ('"""One."""', '"""One.', "common/__init__.py, line 1: unterminated triple-quoted string"),
        ("PROJECT = {}", "PROJECT = {", "SyntaxError"),
    ),
)
def test_an_edited_cell_ends_in_one_message_and_writes_nothing(tmp_path, old, new, message):
    cell = module_cell(FILES)
    assert old in cell
    done = run(tmp_path, cell.replace(old, new, 1))
    assert done.returncode and message in done.stderr and done.stderr.count("Traceback") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_hold_them_is_named_and_left_as_it_was(tmp_path):
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "common").write_text("a file in the way")
    done = run(tmp_path, module_cell(FILES))
    assert f"no modules in {tmp_path}" in done.stderr and "choose a folder that can be written" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["common", "requirements.txt"]


def test_what_was_placed_before_a_failure_is_taken_back(tmp_path):
    (tmp_path / "data").write_text("a file in the way")
    done = run(tmp_path, module_cell(FILES | {"data/__init__.py": "\n"}))
    assert "Nothing was written" in done.stderr and [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("text", ("a = '''b'''\n", "no line feed"))
def test_a_text_that_the_cell_could_not_hold_is_refused_when_it_is_built(text):
    with pytest.raises(ValueError, match=r"common/tool\.py: expected a line feed"):
        module_cell({"common/tool.py": text})


@pytest.mark.slow
def test_alone_in_a_folder_it_runs_to_a_passed_result(built, tmp_path, name="hw4_vit"):
    (tmp_path / f"{name}.ipynb").write_bytes((built / f"{name}.ipynb").read_bytes())
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HW4_", "PYTHONPATH"))}
    environment |= {"HW4_DEPTH": "2", "HW4_EPOCHS": "6", "HW4_COMPARED_IMAGES": "200"}  # as short as its target allows
    environment |= {"HW4_DATA": "sample", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", f"{name}.ipynb", "out.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = (tmp_path / "runs" / TASKS[name]).rglob("result.json")
    assert '"passed": true' in result.read_text()
