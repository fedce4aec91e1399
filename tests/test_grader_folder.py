"""A folder of submissions: what is refused, what the table says, and going on after an interruption."""

import csv
import io
import time
import zipfile

import nbformat
import pytest
from made_notebooks import COURSE, course

from grader import submissions
from grader.__main__ import grade_folder


def written(name: str) -> str:
    return nbformat.writes(course(name))


def archive(path, **members: str | bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return path


def test_an_archive_with_three_notebooks_is_read_wherever_they_lie_in_it(tmp_path):
    path = archive(tmp_path / "2024-20000.zip", **{f"hw4__{name}.ipynb": written(name) for name in COURSE}, notes="x")
    found = submissions.read(path)
    assert set(found.notebooks) == set(COURSE) and found.student == "2024-20000" and not found.problems


def nested() -> bytes:
    archive(inner := io.BytesIO(), a="1")
    return inner.getvalue()


@pytest.mark.parametrize(
    ("members", "reason"),
    (
        ({"..__hw4_vit.ipynb": "{}"}, "points outside"),
        ({"__etc__hw4_vit.ipynb": "{}"}, "points outside"),
        ({"more.zip": nested()}, "another archive"),
        ({"hw4_vit.ipynb": bytes(submissions.ARCHIVE_LIMIT + 1)}, "would unpack to more than"),
        ({"hw4_vit.ipynb": "{]"}, "cannot be read as a notebook"),
        ({"hw4_vit.ipynb": "[" * 100_000}, "cannot be read as a notebook"),
        ({"hw4_vit.ipynb": '{"nbformat": 4, "cells": []}'}, "defines none of the classes"),
        ({"readme.txt": "hello"}, "no notebook"),
    ),
)
def test_an_archive_that_cannot_be_graded_is_refused_with_its_reason(tmp_path, members, reason):
    found = submissions.read(archive(tmp_path / "a.zip", **members))
    assert not found.notebooks and reason in found.problems[0]


def test_a_damaged_archive_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", **{"hw4_vit.ipynb": written("hw4_vit")})
    for content in (b"no archive", path.read_bytes()[:500], path.read_bytes().replace(b"import", b"tropmi")[:-30]):
        path.write_bytes(content)
        assert "is damaged" in submissions.read(path).problems[0]


def test_a_folder_gives_a_table_and_reports_and_is_not_graded_twice(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "2024-1").mkdir(parents=True)
    (folder / "2024-1" / "hw4_vit.ipynb").write_text(written("hw4_vit"))
    (folder / "2024-2.zip").write_bytes(b"no archive")
    grade_folder(folder, out, execute=False)
    rows = list(csv.DictReader((out / "grades.csv").open()))
    assert [(row["student"], row["3b"], row["1a"], row["total"]) for row in rows] == [
        ("2024-1", "10", "0", "40"),
        ("2024-2", "0", "0", "0"),
    ]
    assert "not handed in" in (out / "2024-1.txt").read_text() and "is damaged" in (out / "2024-2.txt").read_text()
    (out / "2024-1.txt").write_text("kept")
    started = time.monotonic()
    grade_folder(folder, out, execute=False)
    assert (out / "2024-1.txt").read_text() == "kept" and time.monotonic() - started < 2
    assert list(csv.DictReader((out / "grades.csv").open())) == rows
