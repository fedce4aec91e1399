"""Grades our notebooks, another one or an archive, or a folder of submissions: python -m grader [FILE or FOLDER]."""

import argparse
import hashlib
import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from tqdm import tqdm

from common.files import atomic_write
from grader import report, results, rnn, runner, seq2seq, submissions, vit  # noqa: F401  (they register their checks)
from grader.questions import NOTEBOOKS, Grade
from grader.report import Points
from grader.runner import LOAD_SECONDS, ROOT, Stopped, Student
from grader.submissions import Notebook


def grade_notebook(notebook: Notebook, which: str, isolated: bool = True, seconds: float = LOAD_SECONDS) -> Grade:
    """Judge one notebook; whatever happens in it, a grade comes back.

    Args:
        notebook: the notebook, with its saved outputs.
        which: the homework it belongs to.
        isolated: run its code in the sandbox.
        seconds: processor time for loading it; what trains longer is cut off.
    """
    grade = Grade(which)
    student = Student(notebook.code(), grade, isolated, seconds)
    try:
        runner.examine(student)
    finally:
        student.end()
    try:
        results.judge_outputs(notebook.cells, grade)
    except Exception as error:  # an output of a form that nobody has seen: a person reads it
        grade.remark(f"the outputs could not be read ({type(error).__name__}: {error})")
    return grade


def fingerprint(paths: list[Path]) -> str:
    """Of a submission and of the grader: a finished record is taken over only if both are the same."""
    digest = hashlib.sha256()
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    for file in [*files, *sorted((ROOT / "grader").glob("*.py"))]:
        if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
            digest.update(os.fsencode(file.name))
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_student(record: dict, folder: Path, points: Points) -> None:
    """The reports on one student, from the record of the findings."""
    grades = [Grade.from_dict(stored) for stored in record["grades"]]
    for name, teacher in (("report.txt", False), ("teacher.txt", True)):
        write(folder / name, report.report(record["student"], grades, record["problems"], points, teacher))
    write(folder / "results.json", json.dumps(report.gradescope(grades, points), indent=1))


def grade_student(name: str, paths: list[Path], out: Path, isolated: bool, points: Points) -> dict:
    """Grade a submission, or take over its record from before an interruption; returns the record."""
    key, place = fingerprint(paths), out / name / "record.json"
    if place.exists():
        try:
            known = json.loads(place.read_text(encoding="utf-8"))
            if known["key"] == key:
                return known
        except (ValueError, KeyError, TypeError):
            pass  # not whole: grade again
    if runner.stopping.is_set():
        raise Stopped
    submission = submissions.read(paths[0])
    if len(paths) > 1:
        others = ", ".join(path.name for path in paths[1:])
        submission.problems.append(f"handed in several times: {paths[0].name}, the latest, was graded, not {others}")
    grades = []
    for which, notebook in submission.notebooks.items():
        grade = grade_notebook(notebook, which, isolated)
        grades.append(grade)
        write(out / name / f"{which}.feedback.ipynb", report.with_feedback(notebook, grade))
    problems = [report.clean(problem) for problem in submission.problems]
    record = {"key": key, "student": name, "problems": problems, "grades": [grade.to_dict() for grade in grades]}
    write_student(record, out / name, points)
    write(place, json.dumps(record, indent=1))  # last: what has a record is whole
    return record


def failed(name: str, error: Exception) -> dict:
    """The record of a submission that the grader could not deal with; it is not kept."""
    told = f"the grader failed on it ({type(error).__name__}: {report.clean(error)}): a person should look"
    return {"student": name, "problems": [told], "grades": []}


def write_class(records: list[dict], out: Path, points: Points) -> None:
    write(out / "grades.csv", report.table(records, points))
    write(out / "statistics.txt", report.summary(records, points))
    print(f"{len(records)} submissions: {out / 'grades.csv'}, {out / 'statistics.txt'}, and a folder for each student")


def grade_folder(folder: Path, out: Path, isolated: bool, points: Points) -> None:
    """Grade every submission in a folder, as many at a time as there are cores."""
    found, records = submissions.submissions(folder), []
    if not found:
        raise SystemExit(f"{folder} holds no submission: expected <student id>.zip, folders or notebooks")
    out.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))
    waiting = {pool.submit(grade_student, name, paths, out, isolated, points): name for name, paths in found.items()}
    try:
        with tqdm(total=len(found), unit="student", desc="grading") as bar:
            while waiting:
                done, _ = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if isinstance(error, Stopped):
                        raise error
                    name = waiting.pop(future)
                    records.append(failed(name, error) if error else future.result())
                    bar.update()
    except (KeyboardInterrupt, Stopped):
        runner.stopping.set()
        pool.shutdown(cancel_futures=True)
        ended = [future for future in waiting if not future.cancelled() and not future.exception()]
        write_class([*records, *(future.result() for future in ended)], out, points)
        raise SystemExit("stopped: the same command goes on with the rest") from None
    pool.shutdown()
    write_class(records, out, points)


def regrade(out: Path, points: Points) -> None:
    """Write all reports again from the stored records, with other points."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/record.json"))]
    if not records:
        raise SystemExit(f"{out} holds no record of a grading: grade a folder first")
    for record in records:
        write_student(record, out / record["student"], points)
    write_class(records, out, points)


def grade_files(paths: list[Path], isolated: bool, points: Points) -> bool:
    """Print the reports on single notebooks; returns whether they earned every point."""
    grades = []
    for path in paths:
        submission = submissions.read(path)
        print(*(f"note: {report.clean(problem)}" for problem in submission.problems), sep="\n")
        if not submission.notebooks and len(paths) == 1:
            raise SystemExit(f"{path} holds nothing to grade")
        for which, notebook in submission.notebooks.items():
            grades.append(grade_notebook(notebook, which, isolated))
            print(f"\n{report.clean(notebook.name)}", *report.lines_of(grades[-1], points, teacher=True), sep="\n")
    low, high = points.total(grades)
    possible = sum(points.worth[letter] for grade in grades for letter in grade.letters())
    print(f"\ntotal {report.span(low, high)} of {possible:g}")
    return low == possible and len(grades) >= len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m grader", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, help="a notebook, a zip or a folder; default: our three")
    parser.add_argument("--out", type=Path, default=Path("build/grades"), help="where a folder's reports go")
    parser.add_argument("--points", default="", help="other points than the handout's, such as 3b=5,1f=0")
    parser.add_argument("--regrade", action="store_true", help="only write the reports in --out again, with --points")
    parser.add_argument(
        "--no-isolation", action="store_true", help="run code outside of the sandbox (throw-away machine!)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        points = Points(options.points)
    except ValueError as error:
        parser.error(str(error))
    if options.regrade:
        regrade(options.out, points)
        return
    if options.path is not None and not options.path.exists():
        parser.error(f"nothing is at {str(options.path)!r}: give a notebook, a zip or a folder of submissions")
    isolated = not options.no_isolation
    if isolated and (problem := runner.isolation_problem()):
        raise SystemExit(f"notebooks cannot be isolated here: {problem}. --no-isolation runs their code all the same")
    if options.path is not None and options.path.is_dir():
        grade_folder(options.path, options.out, isolated, points)
        return
    ours = options.path is None
    complete = grade_files([ROOT / f"{name}.ipynb" for name in NOTEBOOKS] if ours else [options.path], isolated, points)
    sys.exit(1 if ours and not complete else 0)


if __name__ == "__main__":
    main()
