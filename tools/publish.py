"""Point badges, setup cells and README at a public repository on GitHub, or back at the upload of standalone files.

No training is needed: the address is no part of the notebooks' fingerprints, and their outputs stay as they are.

Usage: python -m tools.publish owner/name [--ref main]     (without a repository: back to the upload)
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

from common.files import atomic_write
from tools.notebooks import ROOT, TASKS

COLAB = "https://colab.research.google.com"
BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]"
OWNER, NAME, REF = (
    r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}",
    r"(?!\.\.?$)[A-Za-z0-9._-]{1,100}",
    r"[A-Za-z0-9][A-Za-z0-9._/-]*",
)


def check(repository: str, ref: str) -> None:
    """Refuse what cannot be a public repository, or a branch, tag or commit.

    Raises:
        ValueError: for another form than ``owner/name``, or a ref with other characters than an address takes.
    """
    if not re.fullmatch(f"{OWNER}/{NAME}", repository):
        raise ValueError(f"repository {repository!r}: expected the form owner/name, as in github.com/owner/name")
    if not re.fullmatch(REF, ref) or ".." in ref or ref.endswith(("/", ".", ".lock")):
        raise ValueError(f"ref {ref!r}: expected a branch, tag or commit, such as main")


def open_in_colab(name: str, repository: str, ref: str) -> str:
    """The badge that opens a notebook, or without a repository Colab's upload."""
    return (
        f"{BADGE}({COLAB}/github/{repository}/blob/{ref}/{name}.ipynb)"
        if repository
        else f"{BADGE}({COLAB}/#upload=true)"
    )


def header(name: str, repository: str, ref: str) -> str:
    """The line below a notebook's title."""
    badge = open_in_colab(name, repository, ref)
    if repository:
        return f"{badge} The setup cell fetches the rest of [{repository}](https://github.com/{repository})."
    return (
        f"{badge} Upload `build/standalone/{name}.ipynb`, which `make standalone` writes; it brings its modules along."
    )


def readme_step(repository: str, ref: str) -> str:
    """The first step of the README's list for Colab."""
    if not repository:
        return (
            "1. `make standalone`, then upload `build/standalone/hw4_rnn.ipynb` (or another) at\n"
            f"   [colab.research.google.com]({COLAB}/#upload=true). It brings its modules along."
        )
    badges = [f"   {open_in_colab(name, repository, ref)} `{name}`" for name in TASKS]
    source = f"   Its setup cell fetches the rest of [{repository}](https://github.com/{repository}), `{ref}`."
    return "\n".join(["1. Open a notebook:", *badges]) + f".\n{source}"


def substitute(pattern: str, new: str, text: str, where: str, expected: str) -> str:
    """Put ``new`` in place of the one place in ``text`` that the pattern finds.

    Raises:
        ValueError: if there is none, or more than one.
    """
    text, count = re.subn(pattern, lambda _: new, text, flags=re.M | re.S)
    if count != 1:
        raise ValueError(f"{where} has {count} places like {expected}: expected 1")
    return text


def publish(repository: str, ref: str = "main", root: Path = ROOT) -> list[Path]:
    """Rewrite the three notebooks and the README; returns those that changed.

    Args:
        repository: ``owner/name``, or empty for the upload of standalone files.
        ref: branch, tag or commit.
        root: the project's folder.

    Raises:
        ValueError: for an unknown form of the two, or a file without a place for them; then nothing was written.
    """
    if repository:
        check(repository, ref)
    form = {
        "GIT_URL": f"https://github.com/{repository}" if repository else "",
        "GIT_REF": ref if repository else "main",
    }
    new = {}
    for name in TASKS:
        path = root / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        title, setup = notebook.cells[0], next(cell for cell in notebook.cells if cell.cell_type == "code")
        title.source = substitute(
            r"^\[!\[Open in Colab\].*?$", header(name, repository, ref), title.source, f"{path.name}'s title", BADGE
        )
        for field, value in form.items():
            setup.source = substitute(
                rf'^{field} = "[^"\n]*"', f'{field} = "{value}"', setup.source, f"{path.name}'s setup", f'{field} = ""'
            )
        new[path] = f"{nbformat.writes(notebook)}\n"
    readme, (begin, end) = root / "README.md", ("<!-- colab -->\n", "\n<!-- end of colab -->")
    new[readme] = substitute(
        f"{begin}.*?{end}",
        f"{begin}{readme_step(repository, ref)}{end}",
        readme.read_text(),
        "README.md",
        begin.strip(),
    )
    changed = [path for path, text in new.items() if path.read_text() != text]
    for path in changed:
        with atomic_write(path) as file:
            file.write(new[path].encode())
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", nargs="?", default="", help="owner/name; empty: back to the upload")
    parser.add_argument("--ref", default="main", help="branch, tag or commit")
    arguments = parser.parse_args()
    try:
        changed = publish(arguments.repository, arguments.ref)
    except (OSError, ValueError) as error:
        print(f"nothing published: {error}", file=sys.stderr)
        return 1
    target, files = arguments.repository or "the upload", ", ".join(path.name for path in changed)
    print(f"badges lead to {target}; changed: {files or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
