"""What a teacher has: a folder of archives, folders and notebooks; read without trusting any of it."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import nbformat
from nbformat import NotebookNode

from grader.questions import NOTEBOOKS

NOTEBOOK_LIMIT, ARCHIVE_LIMIT, MEMBERS = 50 << 20, 300 << 20, 2_000  # bytes, bytes, files


class Refused(ValueError):
    """A submission, or a file of it, that cannot be graded; the message says why."""


@dataclass
class Submission:
    student: str
    notebooks: dict[str, NotebookNode] = field(default_factory=dict)  # homework -> notebook
    problems: list[str] = field(default_factory=list)


def parse(content: bytes, name: str) -> NotebookNode:
    """A notebook from its bytes.

    Raises:
        Refused: if it is too large or no notebook.
    """
    if len(content) > NOTEBOOK_LIMIT:
        raise Refused(f"{name} has more than {NOTEBOOK_LIMIT >> 20} MB")
    try:
        notebook = nbformat.from_dict(json.loads(content))
        if notebook.nbformat < 4:
            notebook = nbformat.convert(notebook, 4)
        for cell in notebook.cells:
            if not isinstance(cell.source, str):
                cell.source = "".join(cell.source)
            for output in cell.get("outputs", []):
                if isinstance(output.get("text"), list):
                    output.text = "".join(output.text)
                data = output.get("data", {})
                data.update({key: "".join(value) for key, value in data.items() if isinstance(value, list)})
        return notebook
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{name} cannot be read as a notebook ({type(error).__name__}: {str(error)[:100]})") from error


def homework(notebook: NotebookNode, name: str = "") -> str:
    """Which homework it is, told by the class that it defines.

    Raises:
        Refused: if it defines none of them.
    """
    source = "\n" + "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for which, model in NOTEBOOKS.items():
        if f"\nclass {model}(" in source or f"\nclass {model}:" in source:
            return which
    raise Refused(f"{name or 'the notebook'} defines none of the classes {', '.join(NOTEBOOKS.values())}")


def _members(path: Path) -> dict[str, bytes]:
    # Nothing is unpacked: the notebooks' bytes alone are read, as many as announced.
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            if len(infos) > MEMBERS:
                raise Refused(f"{path.name} holds {len(infos):,} files")
            if sum(info.file_size for info in infos) > ARCHIVE_LIMIT:
                raise Refused(f"{path.name} would unpack to more than {ARCHIVE_LIMIT >> 20} MB")
            found = {}
            for info in infos:
                inner = PurePosixPath(info.filename.replace("\\", "/"))
                if inner.is_absolute() or ".." in inner.parts or ":" in inner.parts[0]:
                    raise Refused(f"{path.name} holds {info.filename!r}, which points outside of it")
                if inner.suffix.lower() in (".zip", ".7z", ".rar", ".tar", ".gz"):
                    raise Refused(
                        f"{path.name} holds another archive, {info.filename!r}: pack the notebooks themselves"
                    )
                if inner.suffix == ".ipynb" and not _hidden(inner):
                    if info.flag_bits & 1:
                        raise Refused(f"{path.name} is encrypted")
                    with archive.open(info) as file:
                        found[str(inner)] = file.read(NOTEBOOK_LIMIT + 1)
            return found
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, io.UnsupportedOperation) as error:
        raise Refused(f"{path.name} is damaged ({error})") from error
    except (zipfile.zlib.error, ValueError) as error:
        raise error if isinstance(error, Refused) else Refused(f"{path.name} is damaged ({error})") from error


def _hidden(path: Path | PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def read(path: Path) -> Submission:
    """One student's notebooks; whatever cannot be read is among its problems."""
    submission = Submission(path.stem if path.is_file() else path.name)
    try:
        if path.is_dir():
            files = [
                p for p in sorted(path.rglob("*.ipynb")) if not _hidden(p.relative_to(path)) and not p.is_symlink()
            ]
            contents = {str(p.relative_to(path)): p.read_bytes() for p in files if p.stat().st_size <= NOTEBOOK_LIMIT}
            submission.problems += [f"{p.name} is too large" for p in files if str(p.relative_to(path)) not in contents]
        elif path.suffix.lower() == ".zip":
            contents = _members(path)
        else:
            contents = {path.name: path.read_bytes()}
    except (Refused, OSError) as problem:
        submission.problems.append(str(problem))
        return submission
    for name, content in contents.items():
        try:
            notebook = parse(content, name)
            which = homework(notebook, name)
        except Refused as refusal:
            submission.problems.append(str(refusal))
            continue
        if which in submission.notebooks:
            submission.problems.append(f"{name} is a second notebook of {which}: it was not graded")
        else:
            submission.notebooks[which] = notebook
    if not contents:
        submission.problems.append("no notebook was handed in")
    return submission


def submissions(folder: Path) -> list[Path]:
    """What each student handed in: archives, folders, or single notebooks."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith((".", "__"))
        and not path.is_symlink()
        and (path.is_dir() or path.suffix.lower() in (".zip", ".ipynb"))
    ]
