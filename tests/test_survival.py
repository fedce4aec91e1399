"""Trainings that are killed go on as if nothing had happened; ``make chaos`` does the same with more kills."""

import subprocess
import sys

import pytest

from common import tracking
from tools.notebooks import ROOT


def test_a_resumed_run_holds_each_step_once_whatever_was_logged_before_the_kill(tmp_path):
    for finished, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        with tracking.open_run(tmp_path, finished) as writer:
            for step in steps:
                writer.add_scalar("loss/train", step + finished / 8, step)
    assert tracking.read_run(tmp_path) == {"loss/train": ([1, 2, 3, 4, 5], [1.0, 2.0, 3.25, 4.25, 5.25])}


@pytest.mark.slow
def test_a_training_killed_four_times_ends_with_the_weights_of_an_undisturbed_one():
    command = [sys.executable, "-m", "tools.chaos", "--kills", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()
    assert [row.split(" | ")[:3] for row in rows] == [[f"| {model}", "4", "2"] for model in ("rnn", "seq2seq", "vit")]
    assert all("equal, bit for bit | the same points" in row for row in rows)
