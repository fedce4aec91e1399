"""The benchmarks measure what they say; the table itself is made by ``make bench``."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import measure, operators, rows, seeds
from common import timing


def test_medians_take_turns_and_measure_each_work_alone(monkeypatch):
    turns, clock = [], [0.0]

    def work(name, durations):
        turns.append(name)
        clock[0] += next(durations)

    a, b = iter([9, 9, 1, 7, 2]), iter([9, 9, 4, 3, 30])  # the first two rounds warm up
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert timing.medians({"a": lambda: work("a", a), "b": lambda: work("b", b)}, rounds=3) == {"a": 2, "b": 4}
    assert turns == ["a", "a", "b", "b"] + ["a", "b"] * 3


def test_the_floor_multiplies_the_shapes_it_is_given():
    with torch.profiler.profile(with_flops=True, acc_events=True) as profile:
        measure.matmuls((2, 1, 8, 4, 6), (3, 1, 5, 7, 9), device=torch.device("cpu"))()
    assert sum(event.flops for event in profile.key_averages()) == 2 * (2 * 8 * 4 * 6 + 3 * 5 * 7 * 9)


def test_both_sides_of_the_recurrence_compute_the_same_gradients():
    for lengths in (None, [5, 3, 3, 1]):
        works = rows.recurrence(T=5, B=4, I=3, H=6, lengths=lengths)
        (x, W_xh, bias, W_hh), theirs = works["ours"](), works["reference"]()
        for mine, other in zip((x, W_xh.T, W_hh.T, bias, bias), theirs, strict=True):
            assert torch.allclose(mine, other, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    (
        partial(rows.attention, B=2, N=5, D=12),
        partial(rows.vit_step, False, B=2, D=12, depth=1),
        partial(rows.seq2seq_step, True, B=2, S=3, T=4, V=20, E=8, H=6),
        partial(rows.cross_entropy, 3, 4),
    ),
    ids=lambda build: build.func.__name__,
)
def test_components_of_the_notebooks_their_references_and_floors_run(build):
    for work in build().values():
        work()


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: f"{row.work}, {row.shape}")
def test_every_row_has_a_name_a_shape_and_an_aim_unless_it_only_compares(row):
    assert row.work and row.shape and row.reference
    assert 0 < row.aim <= 1.2 if row.aim is not None else row.work.startswith("the same")


def test_shares_name_the_operators_that_take_the_time():
    a, b = torch.randn(400, 400), torch.randn(50, 50)
    found = operators.shares(lambda: (a @ a, b.tanh()))
    assert next(iter(found)) == "matmuls" and found["tanh"] > 0 and sum(found.values()) == pytest.approx(100)


RESULT = {
    "metric": "test accuracy (%)",
    "value": 80.0,
    "target": 70.0,
    "seconds": 3.5,
    "seed": 1,
    "test_size": 10,
    "bag_of_embeddings": 75.0,
    "search_seconds": 2.0,
    "options": {"learning_rate": 0.1},
}


def test_seeds_are_added_to_what_is_known_of_the_same_code_and_tabled():
    known = {}
    for seed, value in ((10, 80.0), (9, 90.0)):
        seeds.add(known, "hw4_rnn", "code", RESULT | {"seed": seed, "value": value})
    assert seeds.table(known)[2:] == [
        "| hw4_rnn | test accuracy (%) | 9, 10 | **85.00** | 80.00 | 90.00 |",
        "| hw4_rnn | bag of embeddings | 9, 10 | **75.00** | 75.00 | 75.00 |",
    ]
    seeds.add(known, "hw4_rnn", "other code", RESULT)
    assert seeds.table(known)[2].startswith("| hw4_rnn | test accuracy (%) | 1 | **80.00**")


def test_seeds_are_executed_with_the_notebook_itself(tmp_path, monkeypatch, capsys):
    executed = []

    def execute(name, data, settings, build):
        executed.append((name, data, settings, build.name))
        return RESULT | settings

    monkeypatch.setattr(seeds, "RESULTS", tmp_path)
    monkeypatch.setattr(seeds, "execute", execute)
    monkeypatch.setattr(sys, "argv", ["seeds", "--seed", "1", "--seed", "2", "hw4_vit"])
    assert seeds.main() == 0
    assert executed == [("hw4_vit", "sample", {"seed": seed}, f"seed-{seed}") for seed in (1, 2)]
    assert "| hw4_vit | test accuracy (%) | 1, 2 |" in capsys.readouterr().out
    (values,) = tmp_path.glob("seeds-sample-*.json")
    assert json.loads(values.read_text())["hw4_vit"]["values"]["test accuracy (%)"] == {"1": 80.0, "2": 80.0}
