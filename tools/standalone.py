"""Write the saved notebooks as files that run alone: one more cell in front holds the modules they import.

Usage: python -m tools.standalone [--out build/standalone]
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from common.files import atomic_write
from tools.notebooks import ROOT, TASKS, imported, read

TAG = "standalone"
HEAD = """\
# @title The project's modules (run this first)
# Writes the files below beside this notebook where they are missing; one that differs is kept and named.
FILES = {}
"""
TAIL = """

def write_missing(files):
    import importlib
    import os

    for name, text in files.items():
        if not os.path.exists(name):
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
            with open(name, "w", encoding="utf-8") as file:
                file.write(text)
            continue
        with open(name, encoding="utf-8", errors="replace") as file:
            if file.read() != text:
                print(f"{name} is kept, though not as in this notebook; to replace it, delete it and run this cell")
    importlib.invalidate_caches()


write_missing(FILES)"""


def module_cell(files: dict[str, str]) -> str:
    """The code that writes ``files`` (name and text) where they are missing, with their text readable in it.

    Raises:
        ValueError: for a text that cannot stand between three single quotes as it is.
    """
    for name, text in files.items():
        if "'''" in text or not text.endswith("\n"):
            raise ValueError(f"{name}: expected a line feed at its end, and nowhere three single quotes in a row")
    parts = [f"FILES[\"{name}\"] = r'''\n{text}'''[1:]\n" for name, text in files.items()]
    return "".join([HEAD, *parts, TAIL])


def standalone(notebook: NotebookNode, root: Path = ROOT) -> NotebookNode:
    """A copy of a notebook with a cell in front that writes the modules it imports; all else as saved."""
    paths = [*imported(notebook, root).values(), root / "requirements.txt"]
    files = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    form = {"cellView": "form", "tags": [TAG], "jupyter": {"source_hidden": True}}
    made = nbformat.from_dict(notebook)
    made.cells = [nbformat.v4.new_code_cell(module_cell(files), id="modules", metadata=form), *made.cells]
    nbformat.validate(made)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "standalone")
    folder = parser.parse_args().out
    for name in TASKS:
        with atomic_write(folder / f"{name}.ipynb") as file:
            file.write(f"{nbformat.writes(standalone(read(name)))}\n".encode())
        print(folder / f"{name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
