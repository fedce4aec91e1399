"""What code in the grader's sandbox sees of the machine; what it can do to it is tested in test_grading.py."""

import pytest
from made_notebooks import course

from grader.questions import Grade
from grader.source import code_cells
from grader.student import Student

SPY = """
import os
class Spy(nn.Module):
    def forward(self, unused):
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
"""


def test_a_notebook_sees_no_process_but_its_own(sandbox):
    grade = Grade("hw4_vit")
    student = Student(sandbox, code_cells(course("hw4_vit", after=SPY)), grade)
    try:
        student.start()
        student.ask("build", key="spy", kind="Spy", args=[], options={})
        seen = student.call("spy", 0)["value"]
    finally:
        student.end()
    if any("sandbox" in remark for remark in grade.remarks):
        pytest.skip("no namespaces here")
    assert seen == [1]
