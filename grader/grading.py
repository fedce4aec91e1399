"""From a notebook to its grade."""

from nbformat import NotebookNode

from grader import judge_rnn, judge_seq2seq, judge_vit, results  # noqa: F401  (they register their checks)
from grader.questions import Grade
from grader.sandbox import Sandbox
from grader.source import code_cells
from grader.student import LOAD_SECONDS, Died, Student, Wrong, examine

EXECUTE_SECONDS = 900.0  # of processor time


def grade_notebook(
    notebook: NotebookNode, which: str, sandbox: Sandbox, execute: bool = False, seconds: float = LOAD_SECONDS
) -> Grade:
    """Judge one notebook; whatever happens in it, a grade comes back.

    Args:
        notebook: the notebook, with its saved outputs.
        which: the homework it belongs to.
        sandbox: where its code runs.
        execute: also run it as a whole, on samples.
        seconds: processor time for loading it; what trains longer is cut off.
    """
    grade = Grade(which)
    student = Student(sandbox, code_cells(notebook), grade, seconds)
    try:
        examine(student)
        shown = [f"cell {cell}, line {line}: {what}" for cell, line, what in student.notes]
        if shown:
            more = f" (and {len(shown) - 3} more)" if len(shown) > 3 else ""
            grade.remark(f"statements left out: {'; '.join(shown[:3])}{more}")
    finally:
        student.end()
    results.judge_outputs(notebook, grade)
    if execute:
        run_on_samples(notebook, grade, sandbox)
    return grade


def run_on_samples(notebook: NotebookNode, grade: Grade, sandbox: Sandbox) -> None:
    """Run all cells with time enough and note how far they got and what they printed."""
    student = Student(sandbox, code_cells(notebook), grade, EXECUTE_SECONDS, keep_output=True)
    try:
        student.start()
        lines = [results.Line(-1, line) for line in str(student.ask("output")).splitlines()]
        result = results.best(results.read(lines, grade.notebook))
        failed = f"statements that failed: {len(student.notes)}" if student.notes else "every statement succeeded"
        printed = f"{result.value:g} ({result.line.text[:80]!r})" if result else "no result"
        grade.found.append(f"executed on samples: {failed}, {printed}")
    except (Wrong, Died) as problem:
        grade.found.append(f"executed on samples: it did not get to its end ({problem})")
    finally:
        student.end()
