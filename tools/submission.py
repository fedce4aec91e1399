"""Pack the homework for handing in: Part I of each notebook, checked first and able to run alone, and the packages.

Usage: python -m tools.submission 2024-20000 [--out build]
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbformat import NotebookNode

from common.files import atomic_write
from tools.notebooks import ROOT, TASKS, fingerprint, read, results
from tools.standalone import standalone

PACKED = ("common/*.py", "data/*.py", "requirements.txt", "LICENSE")  # beside the notebooks
LEFTOVERS = r"\b(TODO|FIXME|XXX)\b|\bbreakpoint\(|\bpdb\b|^\s*#\s*print\("
SECOND_PART, REFERENCES = "#+ .*going further", "## References"


def faults(notebook: NotebookNode, root: Path = ROOT) -> list[str]:
    """What keeps a saved notebook from being handed in."""
    found, first = [], [result for result in results(notebook) if result.get("part") == "assignment"]
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if notebook.metadata.get("hw4", {}).get("fingerprint") != fingerprint(notebook, root):
        found.append("its outputs are not those of its code: run make notebooks")
    if counts != list(range(1, len(counts) + 1)):
        found.append("its cells were not run once from top to bottom")
    for number, cell in enumerate(notebook.cells):
        if not cell.source.strip():
            found.append(f"cell {number} is empty")
        leftover = re.search(LEFTOVERS, cell.source, re.M)
        if leftover:
            found.append(f"cell {number}: leftover {leftover[0]!r}")
    if len(first) != 1:
        found.append(f"it states {len(first)} results of the assignment, expected 1")
    elif first[0]["data"] != "real":
        found.append(f"its result is on {first[0]['data']} data, expected real")
    elif not first[0]["passed"]:
        found.append(f"its {first[0]['metric']} is {first[0]['value']}, the target is {first[0]['target']}")
    return found


def section(cells: list[NotebookNode], heading: str) -> range:
    """The places of the cell with the heading and of all up to the next of the two highest levels.

    Raises:
        ValueError: unless there is exactly one such cell.
    """
    headings = {
        i: re.findall("(?m)^#+ .*", cell.source) for i, cell in enumerate(cells) if cell.cell_type == "markdown"
    }
    begins = [i for i, lines in headings.items() if any(re.match(heading, line, re.I) for line in lines)]
    if len(begins) != 1:
        raise ValueError(f"{len(begins)} headings like {heading!r}: expected 1")
    ends = [i for i, lines in headings.items() if i > begins[0] and any(re.match("##? ", line) for line in lines)]
    return range(begins[0], min([*ends, len(cells)]))


def part_one(notebook: NotebookNode) -> NotebookNode:
    """The cells before Part II and the references, with their outputs."""
    made = nbformat.from_dict(notebook)
    made.metadata.pop("hw4", None)  # the fingerprint of the whole
    first = made.cells[: section(made.cells, SECOND_PART).start]
    references = section(made.cells, REFERENCES)
    made.cells = first + made.cells[references.start : references.stop]
    made.cells[0].source = without_dead_links(made.cells[0].source, made.cells)
    return made


def without_dead_links(text: str, cells: list[NotebookNode]) -> str:
    """The text with words in place of links to headings that none of the cells has."""
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    places = {line.replace(" ", "-") for each in texts for line in re.findall("(?m)^#+ (.*)", each)}
    places |= {name for each in texts for name in re.findall('<a id="(.*?)"', each)}
    return re.sub(r"\[([^]]*)\]\(#(.*?)\)", lambda link: link[0] if unquote(link[2]) in places else link[1], text)


def pack(student: str, folder: Path, root: Path = ROOT) -> Path:
    """Write ``folder/<student>.zip``.

    Raises:
        ValueError: for a student ID of another form, or notebooks that are not ready; it lists every fault.
        OSError: if the folder cannot be written.
    """
    if not re.fullmatch(r"\d{4}-\d{5}", student):
        raise ValueError(f"student ID {student!r}: expected the form 2024-20000")
    notebooks = {name: read(name, root) for name in TASKS}
    if found := [f"{name}: {fault}" for name, notebook in notebooks.items() for fault in faults(notebook, root)]:
        raise ValueError("\n  ".join(["the notebooks are not ready:", *found]))
    path = folder / f"{student}.zip"
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, notebook in notebooks.items():
            alone = standalone(part_one(notebook), root)
            for count, cell in enumerate((cell for cell in alone.cells if cell.cell_type == "code"), 1):
                cell.execution_count = count
                for output in cell.outputs:
                    if output.output_type == "execute_result":
                        output.execution_count = count
            archive.writestr(f"{name}.ipynb", f"{nbformat.writes(alone)}\n")
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
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
