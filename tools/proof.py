"""Run the grading, the wrong edits and the kills, and put their tables into the README, with date and commit.

Usage: python -m tools.proof [grade] [mutants] [chaos]
"""

import argparse
import datetime
import re
import subprocess
import sys

from tools.notebooks import ROOT, chosen

COMMANDS = {
    "grade": ["-m", "pytest", "tests", "-m", "question"],
    "mutants": ["-m", "tools.mutants"],
    "chaos": ["-m", "tools.chaos"],
}


def table(name: str, output: str) -> str:
    """The command's table as Markdown."""
    if name == "grade":
        lines = output.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("question "))
        end = next(i for i, line in enumerate(lines) if line.startswith("total "))
        return "```\n" + "\n".join(line.rstrip() for line in lines[start : end + 1]) + "\n```"
    return "\n".join(line for line in output.splitlines() if line.startswith("| ") or "wrong edits caught" in line)


def head() -> str:
    """The commit at hand; asked for before a long command starts, so that its table names what it ran on."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def put_into_readme(name: str, table: str, commit: str) -> None:
    """Put a table between its marks, with the command that made it, date and commit.

    Raises:
        ValueError: if the README has no such marks.
    """
    readme = ROOT / "README.md"
    found = f"{table}\n\n`make {name}`, {datetime.date.today()}, commit {commit}"
    marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    text, count = re.subn(marks, lambda m: f"{m[1]}{found}\n{m[2]}", readme.read_text(), flags=re.S)
    if count != 1:
        raise ValueError(f"README.md has no place between '<!-- {name} -->' and '<!-- end of {name} -->'")
    readme.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proofs", nargs="*", metavar="proof", help=f"by default {', '.join(COMMANDS)}")
    names = chosen(parser, parser.parse_args().proofs, COMMANDS)
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout.strip():
        sys.exit("there are changes that are not committed: commit them, so that the tables belong to a commit")
    fine, commit = True, head()
    for name in names:
        done = subprocess.run([sys.executable, *COMMANDS[name]], cwd=ROOT, capture_output=True, text=True)
        fine &= done.returncode == 0
        found = table(name, done.stdout)
        print(found, flush=True)
        put_into_readme(name, found, commit)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
