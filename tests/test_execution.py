"""The notebooks run from top to bottom on generated samples, without a network, and pass their bars."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from tools.notebooks import TASKS


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_notebook_runs_from_top_to_bottom_on_samples_and_passes_its_bar(name):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HW4_")}
    command = [sys.executable, "-m", "tools.run_notebooks", "--data", "sample", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].split()[:2] == [name, "sample"]
