"""Trainings that are killed go on as if nothing had happened; ``make chaos`` does the same with more kills."""

import subprocess
import sys

import pytest

from tools.notebooks import ROOT


@pytest.mark.slow
@pytest.mark.xdist_group("executions")
@pytest.mark.parametrize("model", ("rnn", "seq2seq", "vit"))
def test_a_training_killed_four_times_ends_with_the_weights_of_an_undisturbed_one(model):
    command = [sys.executable, "-m", "tools.chaos", "--kills", "4", model]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {model} | 4 | 2 |" in done.stdout and "equal, bit for bit | the same points" in done.stdout
