"""Run the grading, the wrong edits and the kills, and put their tables into the README, with date and commit.

Usage: python -m tools.proof [grade] [mutants] [chaos]
"""

import datetime
import re
import subprocess
import sys

from tools.notebooks import ROOT

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


def main() -> int:
    names = sys.argv[1:] or list(COMMANDS)
    if unknown := set(names) - set(COMMANDS):
        sys.exit(f"unknown proof {', '.join(sorted(unknown))}: expected {', '.join(COMMANDS)}")
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout.strip():
        sys.exit("there are changes that are not committed: commit them, so that the tables belong to a commit")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    readme, fine = ROOT / "README.md", True
    for name in names:
        done = subprocess.run([sys.executable, *COMMANDS[name]], cwd=ROOT, capture_output=True, text=True)
        fine &= done.returncode == 0
        found = f"{table(name, done.stdout)}\n\n`make {name}`, {datetime.date.today()}, commit {commit.strip()}"
        print(found, flush=True)
        marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        text, count = re.subn(marks, lambda m, new=found: f"{m[1]}{new}\n{m[2]}", readme.read_text(), flags=re.S)
        if count != 1:
            sys.exit(f"README.md has no place between '<!-- {name} -->' and '<!-- end of {name} -->'")
        readme.write_text(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
