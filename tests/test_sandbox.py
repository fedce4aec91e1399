"""What code in the grader's sandbox sees of the machine; what it can do to it is tested in test_grading.py."""

import subprocess
import sys

import pytest
from conftest import ROOT
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


REFUSED = """
import os, signal, socket, sys
from grader import sandbox, wire
call = sandbox._call
def refuse(function, *arguments):
    if arguments[0] == b"proc":
        raise OSError(1, "Operation not permitted")
    call(function, *arguments)
sandbox._call = refuse
mine, theirs = socket.socketpair()
if os.fork() == 0:
    sandbox._become_worker(theirs, sys.argv[1], 10)
first = wire.receive(mine, 60)
os.kill(first["pid"], signal.SIGKILL)
print(first["missing"])
"""


def test_processes_that_could_not_be_hidden_are_reported(tmp_path):
    command = [sys.executable, "-c", REFUSED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    if done.stdout.startswith(("no namespaces", "files were not made read-only")):
        pytest.skip("no namespaces here")
    assert done.stdout == "other processes were not hidden (Operation not permitted)\n", done.stderr
