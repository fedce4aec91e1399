"""What a teacher has: a folder of archives, folders and notebooks; read without trusting any of it."""

import json
import re
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from grader.questions import NOTEBOOKS

NOTEBOOK_LIMIT, ARCHIVE_LIMIT, MEMBERS = 50 << 20, 300 << 20, 2_000  # bytes, bytes, files


class Refused(ValueError):
    """A submission, or a file of it, that cannot be graded; the message says why."""


@dataclass
class Notebook:
    """A notebook whose cells all have a type, a text as their source, and a list of outputs."""

    name: str
    cells: list[dict]
    raw: dict  # as it was read, for the copy with feedback

    def code(self) -> dict[int, str]:
        """Number (counted from 0, text cells included) -> source of every code cell."""
        return {i: cell["source"] for i, cell in enumerate(self.cells) if cell["cell_type"] == "code"}


@dataclass
class Submission:
    student: str
    notebooks: dict[str, Notebook] = field(default_factory=dict)  # homework -> notebook
    problems: list[str] = field(default_factory=list)


def text(value: Any) -> str:
    joined = "".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else ""
    return joined.encode("utf-8", "replace").decode()  # a lone surrogate can be neither printed nor written


def output(stored: Any) -> dict:
    stored = stored if isinstance(stored, dict) else {}
    data = stored.get("data", {}) if isinstance(stored.get("data", {}), dict) else {}
    data = {str(kind): text(value) for kind, value in data.items()}
    for old, kind in (("png", "image/png"), ("svg", "image/svg+xml"), ("html", "text/html")):  # nbformat 3
        data |= {kind: text(stored[old])} if old in stored else {}
    kind = {"pyerr": "error"}.get(str(stored.get("output_type")), str(stored.get("output_type")))
    return {"output_type": kind, "text": text(stored.get("text")), "data": data}


def parse(content: bytes, name: str) -> Notebook:
    """A notebook from its bytes, of nbformat 3 or 4.

    Raises:
        Refused: if it is too large or no notebook.
    """
    if len(content) > NOTEBOOK_LIMIT:
        raise Refused(f"{name} has more than {NOTEBOOK_LIMIT >> 20} MB")
    try:
        raw = json.loads(content)
        if "worksheets" in raw:
            raw = {**raw, "cells": [cell for sheet in raw["worksheets"] for cell in sheet["cells"]]}
            raw.update(nbformat=4, nbformat_minor=0)
            del raw["worksheets"]
        cells = []
        for cell in raw["cells"]:
            kind = str(cell.get("cell_type") or ("code" if "outputs" in cell else "markdown"))
            outputs = cell.get("outputs") if kind == "code" else None
            cells.append(
                {
                    "cell_type": kind,
                    "source": text(cell.get("source", cell.get("input"))),
                    "outputs": [output(item) for item in outputs] if isinstance(outputs, list) else [],
                }
            )
        return Notebook(name, cells, raw)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{name} cannot be read as a notebook ({type(error).__name__}: {str(error)[:100]})") from error


def homework(notebook: Notebook) -> str:
    """Which homework it is, told by the class that it defines, else by its name.

    Raises:
        Refused: if neither tells.
    """
    source = "\n".join(notebook.code().values())
    for which, model in NOTEBOOKS.items():
        if re.search(rf"(?m)^\s*class\s+{model}\s*[(:]", source):
            return which
    for which in NOTEBOOKS:
        if which in notebook.name.lower():
            return which
    raise Refused(f"{notebook.name} defines none of the classes {', '.join(NOTEBOOKS.values())}")


def _hidden(path: Path | PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts)


def _members(content: bytes | Path, name: str, depth: int = 0) -> dict[str, tuple[tuple, bytes]]:
    """The notebooks in an archive, by name, each with its date. Nothing is unpacked to disk."""
    try:
        with zipfile.ZipFile(content if isinstance(content, Path) else BytesIO(content)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            paths = {info: PurePosixPath(info.filename.replace("\\", "/")) for info in infos}
            wanted = {i: p for i, p in paths.items() if p.suffix.lower() in (".ipynb", ".zip") and not _hidden(p)}
            if len(infos) > MEMBERS:
                raise Refused(f"{name} holds {len(infos):,} files")
            if sum(info.file_size for info in wanted) > ARCHIVE_LIMIT:
                raise Refused(f"{name} would unpack to more than {ARCHIVE_LIMIT >> 20} MB of notebooks")
            found = {}
            for info, inner in wanted.items():
                if inner.is_absolute() or ".." in inner.parts or ":" in inner.parts[0]:
                    raise Refused(f"{name} holds {info.filename!r}, which points outside of it")
                if info.flag_bits & 1:
                    raise Refused(f"{name} is encrypted")
                with archive.open(info) as file:
                    data = file.read((NOTEBOOK_LIMIT if inner.suffix.lower() == ".ipynb" else ARCHIVE_LIMIT) + 1)
                if inner.suffix.lower() == ".ipynb":
                    found[str(inner)] = (info.date_time, data)
                elif depth == 0:
                    with suppress(Refused):  # an archive of data, say
                        found |= {f"{inner}/{k}": v for k, v in _members(data, f"{name}/{inner}", 1).items()}
            return found
    except Refused:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error, ValueError) as error:
        raise Refused(f"{name} is damaged ({error})") from error


def _contents(path: Path, problems: list[str]) -> dict[str, tuple[tuple, bytes]]:
    if path.is_file():
        if path.suffix.lower() == ".zip":
            return _members(path, path.name)
        return {path.name: ((path.stat().st_mtime,), path.read_bytes()[: NOTEBOOK_LIMIT + 1])}
    found = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_symlink() or not file.is_file() or _hidden(file.relative_to(path)):
            continue
        try:
            if file.suffix.lower() == ".ipynb" and file.stat().st_size > NOTEBOOK_LIMIT:
                problems.append(f"{name} has more than {NOTEBOOK_LIMIT >> 20} MB")
            elif file.suffix.lower() == ".ipynb":
                found[name] = ((file.stat().st_mtime,), file.read_bytes())
            elif file.suffix.lower() == ".zip":
                found |= {f"{name}/{inner}": member for inner, member in _members(file, name).items()}
        except (Refused, OSError) as problem:
            problems.append(str(problem))
    return found


def read(path: Path) -> Submission:
    """One student's notebooks; whatever cannot be read is among its problems, and so is what was taken of several."""
    submission = Submission(student_name(path))
    try:
        contents = _contents(path, submission.problems)
    except (Refused, OSError) as problem:
        contents = {}
        submission.problems.append(str(problem))
    found: dict[str, list[tuple]] = {}
    for name, (date, content) in contents.items():
        try:
            notebook = parse(content, text(name.encode("utf-8", "replace").decode()))
            which = homework(notebook)
        except Refused as refusal:
            submission.problems.append(str(refusal))
            continue
        exact = PurePosixPath(name).name.lower() == f"{which}.ipynb"
        found.setdefault(which, []).append((exact, date, len(content), notebook))
    for which, choices in found.items():
        choices.sort(key=lambda choice: choice[:3], reverse=True)  # its proper name, else the latest, else the longest
        submission.notebooks[which] = choices[0][3]
        if len(choices) > 1:
            others = ", ".join(choice[3].name for choice in choices[1:])
            submission.problems.append(
                f"of several notebooks of {which}, {choices[0][3].name} was graded, not {others}"
            )
    if not contents and not submission.problems:
        submission.problems.append("no notebook was handed in")
    return submission


def student_name(path: Path) -> str:
    """The file's or folder's name without what a browser or Moodle adds, fit to be a file's name."""
    name = path.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = re.sub(r"(?i)\.(zip|ipynb)$", "", name) if not path.is_dir() else name
    name = re.sub(r"\s*\(\d+\)$|_assignsubmission_file_?$", "", name)
    return re.sub(r"[^\w.@+ -]", "_", name).strip(". ") or "_"


def submissions(folder: Path) -> dict[str, list[Path]]:
    """What each student handed in: archives, folders, or single notebooks; the latest of several comes first."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith((".", "__")) or path.is_symlink()
        if not hidden and (path.is_dir() or path.suffix.lower() in (".zip", ".ipynb")):
            found.setdefault(student_name(path), []).append(path)
    return {name: sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True) for name, paths in found.items()}
