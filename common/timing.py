"""Comparing times: pieces of work take turns, so that whatever else the machine does slows all of them alike."""

import statistics
import time
from collections.abc import Callable

import torch


def medians(works: dict[str, Callable[[], object]], rounds: int = 9, seconds: float = 20.0) -> dict[str, float]:
    """Median seconds of each work, after two rounds to warm up.

    Args:
        works: pieces of work by name; in each round, each of them is done once.
        rounds: how many are timed; fewer, but three at least, if ``seconds`` are over.
        seconds: for all timed rounds together.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    end = time.perf_counter() + seconds
    for turn in range(-2, rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # a GPU otherwise still works when Python goes on
            times[name].append(time.perf_counter() - began)
        if turn >= 2 and time.perf_counter() > end:
            break
    return {name: statistics.median(each[2:]) for name, each in times.items()}
