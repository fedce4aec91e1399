"""The benchmarks measure what they say; the table itself is made by ``make bench``."""

import json
import sys
import time

import pytest
import torch

from benchmarks import measure, rows, seeds


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


RESULT = {"metric": "test accuracy (%)", "value": 80.0, "target": 70.0, "seconds": 3.5, "seed": 1, "test_size": 10,
          "bag_of_embeddings": 75.0, "search_seconds": 2.0, "options": {"learning_rate": 0.1}}  # fmt: skip


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
