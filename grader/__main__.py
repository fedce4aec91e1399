"""Grades our notebooks, another notebook, or a folder of submissions: python -m grader [FILE or FOLDER]."""

import argparse
import csv
import hashlib
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from common.files import atomic_write
from grader import submissions
from grader.grading import grade_notebook
from grader.questions import NOTEBOOKS, QUESTIONS, Grade
from grader.sandbox import ROOT, Sandbox
from grader.submissions import Refused, Submission


def fingerprint(path: Path, execute: bool) -> str:
    """Of a submission and of the grader: a finished report is taken over only if both are the same."""
    digest = hashlib.sha256(str(execute).encode())
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in [*files, *sorted((ROOT / "grader").glob("*.py"))]:
        if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def grade_submission(submission: Submission, sandbox: Sandbox, execute: bool) -> tuple[list[Grade], list[str]]:
    """The grades of a student's notebooks, and the lines of the report."""
    grades, lines = [], [f"Report on {submission.student}", ""]
    for problem in submission.problems:
        lines += [f"  refused {problem}"]
    for which in NOTEBOOKS:
        lines += ["", which]
        if which not in submission.notebooks:
            lines += ["  not handed in: 0 points"]
            continue
        try:
            grade = grade_notebook(submission.notebooks[which], which, sandbox, execute)
            grades.append(grade)
            lines += grade.lines()
        except Exception as error:  # the next student must not pay for it
            lines += [f"  the grader failed on it ({type(error).__name__}: {error}): a person should look"]
    total = sum(sum(grade.points().values()) for grade in grades)
    return grades, [*lines, "", f"total {total} of {sum(q.points for q in QUESTIONS.values())}"]


def grade_one(path: Path, out: Path, sandbox: Sandbox, execute: bool) -> dict:
    """Grade a submission, or take over its report from before an interruption; returns the row of the table."""
    name = path.stem if path.is_file() else path.name
    report, record = out / f"{name}.txt", out / f"{name}.json"
    key = fingerprint(path, execute)
    if record.exists() and report.exists():
        known = json.loads(record.read_text())
        if known["key"] == key:
            return known["row"]
    grades, lines = grade_submission(submissions.read(path), sandbox, execute)
    points = {letter: number for grade in grades for letter, number in grade.points().items()}
    row = {"student": name, **{letter: points.get(letter, 0) for letter in QUESTIONS}, "total": sum(points.values())}
    for file, text in ((report, "\n".join(lines) + "\n"), (record, json.dumps({"key": key, "row": row}))):
        with atomic_write(file) as target:
            target.write(text.encode())
    return row


def grade_folder(folder: Path, out: Path, execute: bool) -> None:
    """Grade every submission in a folder, as many at a time as there are cores."""
    paths, sandbox = submissions.submissions(folder), Sandbox()
    if not paths:
        raise SystemExit(f"{folder} holds no submission: expected <student id>.zip, folders or notebooks")
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    try:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            futures = [pool.submit(grade_one, path, out, sandbox, execute) for path in paths]
            for future in tqdm(as_completed(futures), total=len(futures), unit="student", desc="grading"):
                rows.append(future.result())
    finally:
        sandbox.close()
    text = io.StringIO()
    table = csv.DictWriter(text, ["student", *QUESTIONS, "total"], lineterminator="\n")
    table.writeheader()
    table.writerows(sorted(rows, key=lambda row: row["student"]))
    with atomic_write(out / "grades.csv") as file:
        file.write(text.getvalue().encode())
    print(f"{len(rows)} submissions: {out / 'grades.csv'}, and a report for each beside it")


def grade_files(paths: list[Path], execute: bool) -> bool:
    """Print the reports on single notebooks; returns whether they earned every point."""
    sandbox, total, possible = Sandbox(), 0, 0
    try:
        for path in paths:
            try:
                notebook = submissions.parse(path.read_bytes(), path.name)
                which = submissions.homework(notebook, path.name)
            except Refused as refusal:
                raise SystemExit(str(refusal)) from refusal
            grade = grade_notebook(notebook, which, sandbox, execute)
            print(f"\n{path.name}", *grade.lines(), sep="\n")
            total += sum(grade.points().values())
            possible += sum(QUESTIONS[letter].points for letter in grade.letters())
    finally:
        sandbox.close()
    print(f"\n{'total':<52} {total:>6} {possible:>4}")
    return total == possible


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m grader", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, help="a notebook or a folder of submissions; default: our three")
    parser.add_argument("--out", type=Path, default=Path("build/grades"), help="where a folder's reports go")
    parser.add_argument("--execute", action="store_true", help="also run the notebooks as a whole, on samples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.path is not None and not options.path.exists():
        parser.error(f"nothing is at {str(options.path)!r}: give a notebook or a folder of submissions")
    if options.path is not None and options.path.is_dir():
        grade_folder(options.path, options.out, options.execute)
        return
    ours = options.path is None
    complete = grade_files([ROOT / f"{name}.ipynb" for name in NOTEBOOKS] if ours else [options.path], options.execute)
    sys.exit(1 if ours and not complete else 0)


if __name__ == "__main__":
    main()
