"""Write the saved notebooks as files that run alone: one more cell in front holds the modules they import.

Usage: python -m tools.standalone [--out build/standalone]
"""

import argparse
import inspect
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from common.files import atomic_write
from tools.notebooks import ROOT, TASKS, code_trees, imported

CELL_ID, TAG = "modules", "standalone"
HEAD = """\
# @title The project's modules (run this first)
# Writes the files below beside this notebook where they are missing; a file that differs is kept, and reported.
PROJECT = {}
"""


def write_project(files: dict[str, str], expected: list[str]) -> None:
    """Write all files that are missing in the working folder, or none of them."""
    import importlib
    import os
    import shutil
    import tempfile
    from pathlib import Path

    remedy = "Nothing was written: take a fresh copy of this notebook, or undo what was changed in this cell"
    if list(files) != expected:
        raise ValueError(f"this cell holds {', '.join(files)}; expected {', '.join(expected)}. {remedy}")
    missing, differing, made, part = [], [], [], None
    for name, text in files.items():
        try:
            if name.endswith(".py"):
                compile(text, name, "exec")
        except SyntaxError as error:
            raise ValueError(f"{name}, line {error.lineno}: {error.msg}. {remedy}") from None
        if not os.path.exists(name):
            missing.append(name)
        elif Path(name).read_text(encoding="utf-8", errors="replace") != text:
            differing.append(name)
    try:
        if missing:
            part = tempfile.mkdtemp(prefix="modules-", dir=".")
        for number, name in enumerate(missing):
            Path(part, str(number)).write_text(files[name], encoding="utf-8")
        for number, name in enumerate(missing):
            folder = os.path.dirname(name) or "."
            if not os.path.isdir(folder):
                os.mkdir(folder)
                made.append(folder)
            os.replace(f"{part}/{number}", name)
            made.append(name)
    except OSError as error:
        for path in reversed(made):
            os.rmdir(path) if os.path.isdir(path) else os.remove(path)
        advice = "Nothing was written: choose a folder that can be written and has space left"
        raise OSError(error.errno, f"no modules in {os.getcwd()} ({error}). {advice}") from None
    finally:
        if part:
            shutil.rmtree(part, ignore_errors=True)
    if differing:
        print(f"kept, though not as in this notebook: {', '.join(differing)} (to replace a file, delete it first)")
    importlib.invalidate_caches()


def module_cell(files: dict[str, str]) -> str:
    """The code that writes ``files`` (name and text) where they are missing, with their text readable in it.

    Raises:
        ValueError: for a text that cannot stand between three single quotes as it is.
    """
    parts = [HEAD]
    for name, text in files.items():
        if "'''" in text or not text.endswith("\n"):
            raise ValueError(f"{name}: expected a line feed at its end, and nowhere three single quotes in a row")
        parts.append(f"PROJECT[\"{name}\"] = r'''\n{text}'''[1:]\n")
    end = f"write_project(PROJECT, {list(files)!r})\ndel PROJECT, write_project"
    return "".join([*parts, "\n\n", inspect.getsource(write_project), "\n\n", end])


def standalone(notebook: NotebookNode, root: Path = ROOT) -> NotebookNode:
    """A copy of a notebook with a cell in front that writes the modules it imports; all else as saved."""
    files = [root / name.replace(".", "/") for name in imported(code_trees(notebook), root)]
    paths = sorted(path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in files)
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in [*paths, root / "requirements.txt"]}
    cell = nbformat.v4.new_code_cell(
        module_cell(texts), id=CELL_ID, metadata={"cellView": "form", "tags": [TAG], "jupyter": {"source_hidden": True}}
    )
    made = nbformat.from_dict(notebook)
    made.cells = [cell, *made.cells]
    return made


def build(folder: Path, root: Path = ROOT) -> list[Path]:
    """Write the three standalone notebooks into ``folder``; returns their paths."""
    made = {name: standalone(nbformat.read(root / f"{name}.ipynb", as_version=4), root) for name in TASKS}
    for name, notebook in made.items():
        nbformat.validate(notebook)
        with atomic_write(folder / f"{name}.ipynb") as file:
            file.write(f"{nbformat.writes(notebook)}\n".encode())
    return [folder / f"{name}.ipynb" for name in made]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "standalone")
    try:
        for path in build(parser.parse_args().out):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    except (OSError, ValueError) as error:
        print(f"no standalone notebooks written: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
