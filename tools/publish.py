"""Point badges and setup cells at a public repository on GitHub, or back at Colab's upload page.

No training is needed: the address is no part of the notebooks' fingerprints, and their outputs stay as they are.

Usage: python -m tools.publish owner/name [--ref main]     (without a repository: back to the upload)
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

from common.files import atomic_write
from tools.notebooks import ROOT, TASKS, read

COLAB = "https://colab.research.google.com"
BADGE = re.compile(rf"(\[!\[Open in Colab\]\({re.escape(COLAB)}/assets/colab-badge\.svg\)\])\(.*?\)")


def publish(repository: str, ref: str = "main", root: Path = ROOT) -> list[str]:
    """Rewrite the three notebooks, and badges in the README's lines that name one; returns the files that changed.

    Args:
        repository: ``owner/name``, or empty for the upload.
        ref: branch, tag or commit.
        root: the project's folder.

    Raises:
        ValueError: for another form of the two, or a notebook without a place for them; then nothing was written.
    """
    if repository and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/(?!\.\.?$)[A-Za-z0-9._-]+", repository):
        raise ValueError(f"repository {repository!r}: expected the form owner/name, as in github.com/owner/name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", ref) or ".." in ref:
        raise ValueError(f"ref {ref!r}: expected a branch, tag or commit, such as main")
    url, ref = (f"https://github.com/{repository}", ref) if repository else ("", "main")
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines(keepends=True)
    new = {}
    for name in TASKS:
        place = f"github/{repository}/blob/{ref}/{name}.ipynb" if repository else "#upload=true"
        notebook = read(name, root)
        title, setup = notebook.cells[0], next(cell for cell in notebook.cells if cell.cell_type == "code")
        title.source, badges = BADGE.subn(rf"\1({COLAB}/{place})", title.source)
        setup.source, urls = re.subn(r'(?m)^GIT_URL = "[^"\n]*"', f'GIT_URL = "{url}"', setup.source)
        setup.source, refs = re.subn(r'(?m)^GIT_REF = "[^"\n]*"', f'GIT_REF = "{ref}"', setup.source)
        if (badges, urls, refs) != (1, 1, 1):
            raise ValueError(f"{name} has {badges} badges, {urls} GIT_URL and {refs} GIT_REF: expected 1 of each")
        new[f"{name}.ipynb"] = f"{nbformat.writes(notebook)}\n"
        lines = [BADGE.sub(rf"\1({COLAB}/{place})", line) if f"{name}.ipynb" in line else line for line in lines]
    new["README.md"] = "".join(lines)
    changed = [name for name, text in new.items() if (root / name).read_text(encoding="utf-8") != text]
    for name in changed:
        with atomic_write(root / name) as file:
            file.write(new[name].encode())
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
    print(f"badges lead to {arguments.repository or 'the upload'}; changed: {', '.join(changed) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
