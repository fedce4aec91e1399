"""Where the time of a work goes: the shares of PyTorch's operators, by its profiler."""

import re
from collections.abc import Iterable

from torch.profiler import ProfilerActivity, profile

from benchmarks.rows import Row
from common.timing import Work

MATMULS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "convolution", "mkldnn_convolution", "convolution_backward"}
ROUNDS, SHOWN = 5, 6


def _name(event: str) -> str:
    name = event.removeprefix("aten::").lstrip("_")
    return "matmuls" if name in MATMULS else re.sub(r"autograd::engine.*|.*Backward\d*|Optimizer.*", "autograd", name)


def shares(work: Work) -> dict[str, float]:
    """Operator -> percent of the time that is spent in it and in nothing that it calls, the largest first.

    All matrix multiplications count as ``matmuls``, what PyTorch does between operators as ``autograd``.
    """
    work(), work()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorded:
        for _ in range(ROUNDS):
            work()
    times: dict[str, float] = {}
    for event in recorded.key_averages():
        times[_name(event.key)] = times.get(_name(event.key), 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return {name: 100 * time / total for name, time in sorted(times.items(), key=lambda item: -item[1])}


def table(rows: Iterable[Row]) -> list[str]:
    """Markdown: where our side of the rows that have a floor spends its time."""
    lines = ["| where the time goes | matmuls | the largest others |", "| --- | --- | --- |"]
    name = ""
    for row in rows:
        name = row.work.replace("the same", name.partition(",")[0])
        works = row.build()
        if row.aim is not None and "floor" in works:
            found = shares(works["ours"])
            matmuls = found.pop("matmuls")
            others = ", ".join(f"{operator} {share:.1f} %" for operator, share in list(found.items())[:SHOWN])
            lines.append(f"| {name} | {matmuls:.1f} % | {others} |")
            print(lines[-1], flush=True)
    return lines
