"""Time what is written by hand beside what a user would call instead, and print a table.

Ours and the reference take turns in one run; each figure is a median. Ratios below 1 mean that ours is faster. The
floor is the matrix multiplications alone. Peak memory is what a work needs on top of its inputs and weights.

Usage: python -m benchmarks.bench [--write] [--no-growth] [--precision medium|highest]
"""

import argparse
import platform
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks import operators
from benchmarks.measure import peak_megabytes
from benchmarks.rows import DEVICE, ROWS, attention, recurrence
from common import plotting, session
from common.timing import medians
from tools import tables

RESULTS = Path(__file__).parent / "results"
GROWTH = {  # what grows, its values, and the work at one of them
    "steps T": ((11, 22, 43, 86, 172), lambda n: recurrence(T=n, B=128)["ours"]),
    "batch B": ((64, 128, 256, 512, 1024), lambda n: recurrence(B=n)["ours"]),
    "hidden size H": ((64, 128, 256, 512, 1024), lambda n: recurrence(B=128, H=n)["ours"]),
    "tokens N": ((17, 65, 145, 257, 577), lambda n: attention(B=16, N=n)["ours"]),
}


def where() -> str:
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    cores = torch.backends.cpu.get_cpu_capability()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    precision = torch.get_float32_matmul_precision()
    return f"{name} ({platform.machine()}, {cores}), {versions}, float32 matmul precision {precision!r}"


def table() -> list[str]:
    """Markdown; every row's aim beside what was reached."""
    lines = [
        "| work | shape | reference | reference, ms | ours / reference | aim | ours / floor | peak MB | of reference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    sides = ("ours", "reference")  # memory first: it is measured before the first parallel work of this process
    peaks = [[peak_megabytes(lambda row=row, side=side: row.build()[side]) for side in sides] for row in ROWS]
    for row, (mine, others) in zip(ROWS, peaks, strict=True):
        for _ in range(2):  # a row that misses its aim is measured once more: the machine may have been busy
            seconds = medians(row.build())
            ratio = seconds["ours"] / seconds["reference"]
            if row.aim is None or ratio <= row.aim:
                break
        floor = f"{seconds['ours'] / seconds['floor']:.2f}" if "floor" in seconds else ""
        milliseconds = 1e3 * seconds["reference"]
        aim = "" if row.aim is None else f"<= {row.aim:g}" + ("" if ratio <= row.aim else ", missed")
        lines.append(
            f"| {row.work} | {row.shape} | {row.reference} | {milliseconds:.1f} | **{ratio:.3g}** | {aim}"
            f" | {floor} | {mine:.0f} | {others:.0f} |"
        )
        print(lines[-1], flush=True)
    return lines


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """The slope of a line through the three largest points, both axes logarithmic."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(np.maximum(values[-3:], 1e-9)), 1)[0])


def growth(memory: dict[str, list[float]]) -> list[str]:
    """The figure of time and memory against size, and its fitted exponents as Markdown."""
    plotting.use_style()
    fig, axes = plt.subplots(2, len(GROWTH), figsize=(14, 6), sharey="row")
    lines = [
        "| what grows | from, to | time grows with the power | memory grows with the power |",
        "| --- | --- | --- | --- |",
    ]
    for column, (name, (sizes, build)) in enumerate(GROWTH.items()):
        taken = medians({str(size): build(size) for size in sizes}, rounds=15, seconds=8)
        seconds = [taken[str(size)] for size in sizes]
        powers = exponent(sizes, seconds), exponent(sizes, memory[name])
        lines.append(f"| {name} | {sizes[0]}, {sizes[-1]} | {powers[0]:.2f} | {powers[1]:.2f} |")
        work = "attention" if name.startswith("tokens") else "recurrence"
        for ax, values, power, unit in zip(
            axes[:, column], (np.multiply(seconds, 1e3), memory[name]), powers, ("ms", "MB")
        ):
            ax.loglog(sizes, values, "o-", color=plotting.BLUE if work == "recurrence" else plotting.ORANGE)
            ax.set(title=f"{work}: power {power:.2f}", xlabel=name, ylabel=unit if column == 0 else "")
            ax.set_xticks(sizes, [str(size) for size in sizes])
            ax.minorticks_off()
    fig.suptitle("Forward and backward: time (top) and peak memory (bottom) against size, logarithmic axes")
    fig.savefig(RESULTS / f"growth-{DEVICE.type}.png", dpi=100)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    parser.add_argument("--no-growth", action="store_true", help="leave out the figure of growth")
    parser.add_argument(
        "--precision",
        choices=("medium", "highest"),
        default="medium",
        help="of float32 matmuls: medium as in the notebooks, or PyTorch's default",
    )
    arguments = parser.parse_args()
    commit = tables.current_commit("bench")
    session.start(seed=0)
    torch.set_float32_matmul_precision(arguments.precision)
    session.keep_freed_memory()
    print(where(), flush=True)
    memory = {}
    if not arguments.no_growth:  # before the first parallel work of this process
        for what, (sizes, build) in GROWTH.items():
            memory[what] = [peak_megabytes(lambda build=build, size=size: build(size)) for size in sizes]
    lines = [*table(), "", *operators.table(ROWS)]
    if memory:
        exponents = growth(memory)
        print("\n".join(exponents))
        lines += ["", *exponents]
    if arguments.write:
        tables.write("bench", [where(), "", *lines], commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
