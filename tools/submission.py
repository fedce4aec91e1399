"""Pack the homework for handing in: the three notebooks, checked first and able to run alone, and the packages.

Usage: python -m tools.submission 2024-20000 [--out build]
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from common.files import atomic_write
from tools.notebooks import ROOT, TASKS, fingerprint, results
from tools.standalone import standalone

PACKED = ("common/*.py", "data/*.py", "requirements.txt", "README.md", "LICENSE")  # beside the notebooks
LEFTOVERS = r"\b(TODO|FIXME|XXX)\b|\bbreakpoint\(|\bpdb\b|^\s*#\s*print\("


def faults(name: str, notebook: NotebookNode) -> list[str]:
    """What keeps a notebook from being handed in."""
    found, stated = [], results(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if notebook.metadata.get("hw4", {}).get("fingerprint") != fingerprint(notebook):
        found.append("its outputs are not those of its code: run make notebooks")
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("its cells were not run once from top to bottom")
    for number, cell in enumerate(notebook.cells):
        if not cell.source.strip():
            found.append(f"cell {number} is empty")
        for line, text in enumerate(cell.source.splitlines(), 1):
            if re.search(LEFTOVERS, text):
                found.append(f"cell {number}, line {line}: leftover {text.strip()[:60]!r}")
    if len(stated) != 1:
        found.append(f"it states {len(stated)} results, expected 1")
    elif stated[0]["data"] != "real":
        found.append(f"its result is on {stated[0]['data']} data, expected real")
    elif not stated[0]["passed"]:
        found.append(f"its {stated[0]['metric']} is {stated[0]['value']}, the target is {stated[0]['target']}")
    return [f"{name}: {fault}" for fault in found]


def pack(student: str, folder: Path, root: Path = ROOT) -> Path:
    """Write ``folder/<student>.zip``.

    Raises:
        ValueError: for a student ID of another form, or notebooks that are not ready; it lists every fault.
        OSError: if the folder cannot be written.
    """
    if not re.fullmatch(r"\d{4}-\d{5}", student):
        raise ValueError(f"student ID {student!r}: expected the form 2024-20000")
    notebooks = {name: nbformat.read(root / f"{name}.ipynb", as_version=4) for name in TASKS}
    found = [fault for name, notebook in notebooks.items() for fault in faults(name, notebook)]
    if found:
        raise ValueError("the notebooks are not ready:\n  " + "\n  ".join(found))
    path = folder / f"{student}.zip"
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, notebook in notebooks.items():
            archive.writestr(f"{name}.ipynb", f"{nbformat.writes(standalone(notebook, root))}\n")
        for pattern in PACKED:
            for source in sorted(root.glob(pattern)):
                archive.write(source, source.relative_to(root))
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", help="the student ID, such as 2024-20000")
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    arguments = parser.parse_args()
    try:
        path = pack(arguments.student, arguments.out)
    except (OSError, ValueError) as error:
        print(f"no submission written: {error}", file=sys.stderr)
        return 1
    with zipfile.ZipFile(path) as archive:
        print(f"{path}: {len(archive.namelist())} files, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
