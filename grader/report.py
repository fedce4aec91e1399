"""What a student reads, what a teacher reads, and what a machine reads."""

import copy
import csv
import io
import json
import re
import statistics
import unicodedata

from grader.questions import OPEN, PASSED, QUESTIONS, WRONG, Grade
from grader.submissions import Notebook

TOTAL = sum(question.points for question in QUESTIONS.values())


def clean(text: str, limit: int = 500) -> str:
    """A text from a notebook on one line: nothing in it can start a line of its own or steer a terminal."""
    visible = (c if not unicodedata.category(c).startswith("C") else " " for c in str(text).replace("\n", " \\n "))
    return "".join(visible)[:limit].strip()


def cell_safe(value: object) -> object:
    """A text that no spreadsheet takes for a formula."""
    value = clean(value, 2_000) if isinstance(value, str) else value
    return f"'{value}" if isinstance(value, str) and re.match(r"\s*[=+\-@|]", value) else value


class Points:
    """What each question is worth: the handout's points, unless a teacher says otherwise."""

    def __init__(self, text: str = ""):
        self.worth = {letter: float(question.points) for letter, question in QUESTIONS.items()}
        for item in filter(None, text.split(",")):
            letter, _, number = item.partition("=")
            if letter not in QUESTIONS or not re.fullmatch(r"\d+(\.\d+)?", number):
                raise ValueError(f"--points {item!r}: expected a question and its points, such as 3b=5 (0 drops it)")
            self.worth[letter] = float(number)

    def earned(self, grade: Grade, letter: str) -> tuple[float, float]:
        factor = self.worth[letter] / QUESTIONS[letter].points
        low, high = grade.earned(letter)
        return round(low * factor, 2), round(high * factor, 2)

    def total(self, grades: list[Grade]) -> tuple[float, float]:
        pairs = [self.earned(grade, letter) for grade in grades for letter in grade.letters()]
        return sum(low for low, _ in pairs), sum(high for _, high in pairs)


def span(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def lines_of(grade: Grade, points: Points, teacher: bool) -> list[str]:
    """The report on one notebook."""
    lines = [f"{'question':<9} {'asks':<34} {'earned':>9} {'of':>4}"]
    for letter in grade.letters():
        question, earned = QUESTIONS[letter], points.earned(grade, letter)
        lines.append(f"{letter:<9} {question.asks:<34} {span(*earned):>9} {points.worth[letter]:>4g}")
        for part, worth in question.parts.items():
            outcome, reasons = grade.outcome(letter, part)
            label = f"{part or question.asks} ({worth * points.worth[letter] / question.points:g})"
            lines += [f"{'':<9} - {label}, {outcome}: {clean(reason)}" for reason in reasons if outcome != PASSED]
    if teacher:
        lines += [f"  found   {clean(text)}" for text in grade.found]
    lines += [
        f"  remark  {clean(remark.text)}"
        for remark in grade.remarks
        if teacher or "did not run here" not in remark.text
    ]
    return lines


def report(student: str, grades: list[Grade], problems: list[str], points: Points, teacher: bool) -> str:
    """A student's report; the teacher's also tells where results were found and what did not run."""
    lines = [f"Report on {clean(student)}", ""]
    lines += [f"  note    {clean(problem)}" for problem in problems]
    known = {grade.notebook: grade for grade in grades}
    for which in dict.fromkeys(question.notebook for question in QUESTIONS.values()):
        lines += ["", which]
        lines += lines_of(known[which], points, teacher) if which in known else ["  not handed in: 0 points"]
    low, high = points.total(grades)
    lines += ["", f"total {span(low, high)} of {sum(points.worth.values()):g}"]
    if low != high:
        lines.append("What is not judged needs a person; nothing is lost for it yet.")
    return "\n".join(lines) + "\n"


def gradescope(grades: list[Grade], points: Points) -> dict:
    """The content of Gradescope's ``results.json``; what is not judged has no score yet and says so."""
    tests = []
    for grade in grades:
        for letter in grade.letters():
            low, high = points.earned(grade, letter)
            reasons = [
                f"{part or QUESTIONS[letter].asks}, {outcome}: {clean(reason)}"
                for part in QUESTIONS[letter].parts
                for outcome, found in [grade.outcome(letter, part)]
                for reason in found
            ]
            test = {"name": f"{letter} {QUESTIONS[letter].asks}", "number": letter, "score": low}
            test |= {"max_score": points.worth[letter], "output": "\n".join(reasons), "visibility": "visible"}
            tests.append(test | {"status": "passed" if low == points.worth[letter] else "failed"})
    low, high = points.total(grades)
    told = f"{high - low:g} points are not judged yet" if low != high else ""
    return {"score": low, "output": told, "visibility": "visible", "tests": tests}


def with_feedback(notebook: Notebook, grade: Grade) -> str:
    """The student's notebook with a text cell below each cell that the grader has something to say about."""
    notes: dict[int, list[str]] = {}
    last = len(notebook.cells) - 1
    for letter in grade.letters():
        for part in QUESTIONS[letter].parts:
            outcome, reasons = grade.outcome(letter, part)
            for reason in reasons if outcome != PASSED else []:
                places = [f.cell for f in grade.findings if (f.letter, f.part, f.reason) == (letter, part, reason)]
                cell = next((place for place in places if place is not None), last)
                notes.setdefault(cell, []).append(f"**{letter} {part}** {outcome}: {clean(reason)}")
    for remark in grade.remarks:
        if remark.cell is not None:
            notes.setdefault(remark.cell, []).append(f"remark: {clean(remark.text)}")
    raw, cells = copy.deepcopy(notebook.raw), []
    for number, cell in enumerate(raw["cells"]):
        cells.append({"id": f"cell-{number}"} | cell)
        if number in notes:
            escaped = [re.sub(r"([\\`<>\[\]$#])", r"\\\1", note) for note in dict.fromkeys(notes[number])]
            source = "\n".join(f"> {note}  " for note in escaped)
            metadata = {"tags": ["feedback"]}
            cells.append({"cell_type": "markdown", "id": f"feedback-{number}", "metadata": metadata, "source": source})
    return json.dumps({**raw, "cells": cells, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def table(rows: list[dict], points: Points) -> str:
    """``grades.csv``: for each student the points of each question, the range of the total, and what is not judged."""
    columns = ["student", *QUESTIONS, "total", "total at most", "not judged", "notes"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: row["student"]):
        grades = [Grade.from_dict(stored) for stored in row["grades"]]
        earned = {letter: points.earned(g, letter)[0] for g in grades for letter in g.letters()}
        low, high = points.total(grades)
        waiting = [
            f"{letter} {part}: {reasons[0]}".replace("  ", " ")
            for grade in grades
            for letter in grade.letters()
            for part in QUESTIONS[letter].parts
            for outcome, reasons in [grade.outcome(letter, part)]
            if outcome == OPEN
        ]
        cells = {"student": row["student"], **{letter: earned.get(letter, 0) for letter in QUESTIONS}, "total": low}
        cells |= {"total at most": high, "not judged": "; ".join(waiting), "notes": "; ".join(row["problems"])}
        writer.writerow({key: cell_safe(value) for key, value in cells.items()})
    return file.getvalue()


def summary(rows: list[dict], points: Points) -> str:
    """Statistics of each part: how many passed, failed, wait for a person; and the total's spread."""
    lines = [f"{'question':<9} {'part':<28} {'of':>3} {'passed':>7} {'wrong':>7} {'not judged':>11}"]
    grades = [[Grade.from_dict(stored) for stored in row["grades"]] for row in rows]
    for letter, question in QUESTIONS.items():
        for part in question.parts:
            outcomes = [g.outcome(letter, part)[0] for own in grades for g in own if g.notebook == question.notebook]
            passed, wrong, waiting = (outcomes.count(outcome) for outcome in (PASSED, WRONG, OPEN))
            name, worth = part or question.asks, question.parts[part] * points.worth[letter] / question.points
            lines.append(f"{letter:<9} {name:<28} {worth:>3g} {passed:>7} {wrong:>7} {waiting:>11}")
    totals = sorted(points.total(own)[0] for own in grades)
    if totals:
        mean, median = statistics.mean(totals), statistics.median(totals)
        lines.append(
            f"\n{len(totals)} students: total from {totals[0]:g} to {totals[-1]:g}, mean {mean:.1f}, median {median:g}"
        )
    return "\n".join(lines) + "\n"
