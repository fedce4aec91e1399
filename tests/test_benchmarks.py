"""The benchmarks measure what they say; the table itself is made by ``make bench``."""

import json
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from benchmarks import measure, reach, rows, seeds
from common import tracking


def test_medians_take_turns_and_tell_the_slower_from_the_faster():
    turns = []
    works = {
        name: lambda name=name, s=s: (turns.append(name), time.sleep(s)) for name, s in (("a", 0.001), ("b", 0.004))
    }
    taken = measure.medians(works, rounds=3)
    assert taken["b"] > 2 * taken["a"] and turns[4:] == ["a", "b"] * 3


def test_the_floor_multiplies_the_shapes_it_is_given():
    with torch.profiler.profile(with_flops=True, acc_events=True) as profile:
        measure.products((2, 1, 8, 4, 6), (3, 1, 5, 7, 9), device=torch.device("cpu"))()
    assert sum(event.flops for event in profile.key_averages()) == 2 * (2 * 8 * 4 * 6 + 3 * 5 * 7 * 9)


def test_both_sides_of_the_recurrence_compute_the_same_gradients():
    for lengths in (None, [5, 3, 3, 1]):
        works = rows.recurrence(T=5, B=4, I=3, H=6, lengths=lengths)
        (x, W_xh, bias, W_hh), theirs = works["ours"](), works["reference"]()
        for mine, other in zip((x, W_xh.T, W_hh.T, bias, bias), theirs, strict=True):
            assert torch.allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: f"{row.work}, {row.shape}")
def test_every_row_has_a_name_a_shape_and_an_aim_unless_it_only_compares(row):
    assert row.work and row.shape and row.reference
    assert 0 < row.aim <= 1.2 if row.aim is not None else row.work.startswith("the same")


def test_seconds_to_a_goal_count_from_the_start_of_training(tmp_path):
    with tracking.open_run(tmp_path) as writer:
        for epoch, accuracy in enumerate((50.0, 66.0, 81.0), 1):
            time.sleep(0.2)
            tracking.log(writer, epoch, validation_accuracy=accuracy)
    reached = reach.seconds_to(tmp_path, "validation/accuracy", (65, 80, 90))
    assert 0.35 < reached["from 65"] < reached["from 80"] == reached["whole training"] and reached["from 90"] is None


def test_a_notebook_runs_without_jupyter_too(tmp_path, capsys):
    import nbformat

    cells = [nbformat.v4.new_code_cell(source) for source in ("%load_ext tensorboard\nx = 20", "print(x + 1)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "small.ipynb")
    reach.run_cells(tmp_path / "small.ipynb")
    assert capsys.readouterr().out == "21\n"


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_the_cpu_with_samples(tmp_path):
    command = [sys.executable, "-m", "benchmarks.reach", "--data", "sample", "--out", str(tmp_path), "hw4_vit"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "reach.json").read_text())
    assert said["hw4_vit"]["passed"] and 0 < said["hw4_vit"]["reached"]["from 65"] < said["hw4_vit"]["notebook_seconds"]
    assert {path.name for path in tmp_path.iterdir()} == {"reach.json", "hw4_vit.log", "hw4_vit.ipynb"}


@pytest.mark.slow
def test_seeds_are_told_apart_and_added_to_what_is_known(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seeds, "RESULTS", tmp_path)
    for seed in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["seeds", "--data", "sample", "--seed", seed, "rnn"])
        assert seeds.main() == 0
    values = json.loads(next(tmp_path.glob("seeds-sample-*.json")).read_text())["rnn"]["test accuracy (%)"]
    assert values.keys() == {"1", "2"} and values["1"] != values["2"] and min(values.values()) > 70
    mean = sum(values.values()) / 2
    assert (
        f"| rnn | test accuracy (%) | 1, 2 | **{mean:.2f}** | {min(values.values()):.2f} |" in capsys.readouterr().out
    )
