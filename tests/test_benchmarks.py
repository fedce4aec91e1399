"""The benchmarks run on small shapes, and their rows compare the same computation; ``make bench`` makes the table."""

import sys
from functools import partial

import pytest
import torch

from benchmarks import bench, seeds


@pytest.mark.parametrize(
    "row",
    (
        partial(bench.recurrence, 5, 4, 3, 6, packed=False),
        partial(bench.recurrence, 5, 4, 3, 6, packed=True),
        partial(bench.cross_entropy, 3, 4),
        partial(bench.attention, 2, 5, 12),
        partial(bench.translation, 2, 3, 4, 20, 6),
        partial(bench.muon, 6, 1),
    ),
    ids=lambda row: row.func.__name__,
)
def test_rows_run_on_both_sides(row):
    _, works = row()
    assert next(iter(works)) == "ours" and len(works) > 1
    for work in works.values():
        work()


def test_both_sides_of_attention_compute_the_same(monkeypatch):
    torch.manual_seed(0)
    outputs = []
    monkeypatch.setattr(bench, "forward_backward", lambda function, *given: lambda: outputs.append(function(*given)))
    for work in bench.attention(2, 5, 12)[1].values():
        work()
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(outputs[1], outputs[2])


def test_seeds_are_executed_with_the_notebook_itself_and_tabled_for_both_parts(monkeypatch, capsys):
    def execute(name, data, settings, build):
        result = {"part": "assignment", "metric": "accuracy", "value": 80.0 + settings["seed"], "target": 70.0}
        further = {"bag_of_words": 75.0, "seconds": 3.5, "search_seconds": 1.0, "options": {"rate": 0.1}}
        return [result, {**result, **further, "part": "further", "metric": "accuracy"}], ""

    monkeypatch.setattr(seeds, "execute", execute)
    monkeypatch.setattr(seeds, "check_settings", lambda names, settings: dict.fromkeys(names, settings))
    monkeypatch.setattr(sys, "argv", ["seeds", "--seeds", "10", "9", "--", "hw4_vit"])
    assert seeds.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:-1] == [
        "| hw4_vit | assignment | accuracy | 10, 9 | **89.50** | 89.00 | 90.00 |",
        "| hw4_vit | further | accuracy | 10, 9 | **89.50** | 89.00 | 90.00 |",
        "| hw4_vit | further | bag of words | 10, 9 | **75.00** | 75.00 | 75.00 |",
    ]
