"""Peak memory, measured in a process of its own, and the floor of a work's time: its matrix multiplications alone."""

import ctypes
import gc
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch

from common.timing import Work


def _status(field: str) -> int:
    """A figure of this process in kB, as Linux knows it."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def peak_megabytes(build: Callable[[], Work]) -> float:
    """The memory that a work needs on top of what its inputs and weights take.

    On a CPU a forked process measures it, so this must be called before the first parallel work of this one.
    """
    if torch.cuda.is_available():
        work = build()
        work()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    read, write = os.pipe()
    if os.fork() == 0:
        work = build()
        work()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what building left free would hide what the work takes
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
        before = _status("VmRSS")
        work()
        os.write(write, str((_status("VmHWM") - before) / 1024).encode())
        os._exit(0)
    os.wait()
    os.close(write)
    with os.fdopen(read) as pipe:
        return float(pipe.read() or "nan")


def matmuls(*shapes: tuple[int, int, int, int, int], device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
    """The floor: matrix multiplications alone, ``(times, batch, rows, inner, columns)`` each."""
    pairs = [
        (
            times,
            torch.randn(batch, m, k, device=device, dtype=dtype),
            torch.randn(batch, k, n, device=device, dtype=dtype),
        )
        for times, batch, m, k, n in shapes
    ]
    if all(batch == 1 for _, batch, *_ in shapes):
        pairs = [(times, a[0], b[0]) for times, a, b in pairs]

    def work() -> None:
        for times, a, b in pairs:
            for _ in range(times):
                a @ b

    return work
