"""Tables in docs/ that commands write: each with its date and the commit it describes; which of them are stale."""

import datetime
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

from tools.notebooks import ROOT, TASKS, code_trees, normalized, parse_module

_CODE = (*(f"{name}.ipynb" for name in TASKS), "common", "data")
_TESTED = "rnn seq2seq vit notebooks common training broken_input survival data download grading rules".split()
_TESTS = tuple(f"tests/test_{part}.py" for part in _TESTED)
_GRADER = tuple(f"grader/{part}.py" for part in "rules judge_rnn judge_seq2seq judge_vit student worker".split())
_DIRTY = " with uncommitted changes"
NOT_WRITTEN = "*Not measured for this version.*"


@dataclass(frozen=True)
class Table:
    """A page with the markers of the table, and the files that it is about: it is stale once their code changes."""

    page: str
    about: tuple[str, ...]


TABLES = {  # named as the make targets that write them
    "grade": Table("docs/verification.md", (*_CODE, "grader")),
    "mutants": Table(
        "docs/verification.md",
        (*_CODE, *_GRADER, *_TESTS, "tests/conftest.py", "tests/made_notebooks.py", "tools/mutants.py"),
    ),
    "chaos": Table("docs/verification.md", (*_CODE, "tools/chaos.py")),
    "colab-check": Table(
        "docs/verification.md",
        (*_CODE, "tools/standalone.py", "tools/colab_check.py", "requirements.txt", "constraints.txt"),
    ),
    "bench": Table(
        "docs/speed.md",
        (*_CODE, *(f"benchmarks/{part}.py" for part in ("bench", "measure", "operators", "rows"))),
    ),
    "seeds": Table("docs/results.md", _CODE),
}


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True).stdout


def _code(path: str, text: str) -> str:
    """What counts of a file: code without comments, docstrings and outputs; of other files, all of it."""
    if path.endswith(".ipynb"):
        return "".join(map(normalized, code_trees(nbformat.reads(text, as_version=4))))
    return normalized(parse_module(text)) if path.endswith(".py") else text


def _changed(name: str, root: Path, old: str, new: str | None = None) -> list[str]:
    """The files a table is about whose code differs between two commits, or between one and the working tree."""
    commits = [old, new] if new else [old]
    paths = _git(root, "diff", "--name-only", "--no-renames", *commits, "--", *TABLES[name].about).split()
    found = [] if new else _git(root, "ls-files", "--others", "--exclude-standard", "--", *TABLES[name].about).split()
    for path in paths:
        texts = [_git(root, "show", f"{at}:{path}") for at in commits if _git(root, "ls-tree", at, path)]
        if not new and (root / path).exists():
            texts.append((root / path).read_text())
        if len(texts) < 2 or _code(path, texts[0]) != _code(path, texts[1]):
            found.append(path)
    return found


def current_commit(name: str, root: Path = ROOT) -> str:
    """The commit that a table is about, to be asked for before a long command starts; marked if the code is another.

    Without git, as in an unpacked submission: ``unknown``.
    """
    try:
        head = _git(root, "rev-parse", "--short", "HEAD").strip()
        return head + (_DIRTY if _changed(name, root, head) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(name: str, lines: list[str], commit: str, root: Path = ROOT) -> None:
    """Put a table between its markers ``<!-- name -->`` and ``<!-- end of name -->``.

    Raises:
        ValueError: if its page does not have these markers once.
    """
    page = root / TABLES[name].page
    footer = f"`make {name}`, {datetime.date.today()}, commit {commit}"
    content = "\n".join([*lines, "", footer])
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    text, count = re.subn(pattern, lambda found: f"{found[1]}{content}\n{found[2]}", page.read_text(), flags=re.S)
    if count != 1:
        raise ValueError(f"{TABLES[name].page} has {count} places from '<!-- {name} -->' to its end: expected 1")
    page.write_text(text)


def is_written(name: str, root: Path = ROOT) -> bool:
    """Whether the page has the table; where it has not, it says so between the markers."""
    return f"<!-- {name} -->\n{NOT_WRITTEN}\n<!-- end of {name} -->" not in (root / TABLES[name].page).read_text()


def commit_of(name: str, root: Path = ROOT) -> str:
    """The commit that a written table states.

    Raises:
        ValueError: if the table has not been written.
    """
    text = (root / TABLES[name].page).read_text()
    found = re.search(rf"<!-- {name} -->\n.*?, commit ([^\n]*)\n<!-- end of {name} -->", text, re.S)
    if not found:
        raise ValueError(f"{TABLES[name].page} has no table of make {name}: run it")
    return found[1]


def changed_since(name: str, root: Path = ROOT) -> list[str]:
    """The files a table is about whose code was committed after the table's commit: if there are any, it is stale."""
    commit = commit_of(name, root)
    if commit.endswith(_DIRTY):
        return [f"{TABLES[name].page}: written{_DIRTY}"]
    return _changed(name, root, commit, "HEAD")


def main() -> int:
    """Run a command and put what it prints into docs/: ``python -m tools.tables NAME COMMAND ...``."""
    name, *command = sys.argv[1:]
    commit = current_commit(name)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    write(name, ["```", *(line.rstrip() for line in done.stdout.strip().splitlines()), "```"], commit)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
