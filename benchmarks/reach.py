"""Run the notebooks on the device at hand and tell how soon each reaches the assignment's bar, and how far it comes.

Installs nothing. Where papermill and a Jupyter kernel are at hand, executed copies of the notebooks are left beside the
logs; elsewhere their cells run in this process. Everything is written below ``--out``: one log for each notebook, its
result, and ``reach.json``, which holds the printed table.

Usage: python -m benchmarks.reach [--data sample|real|auto] [--out build/reach] [notebook ...]
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common import checkpoint
from tools.notebooks import ROOT, TASKS, chosen, python

GOALS = {  # notebook: folder of its final training's curves, tag, values to reach
    "hw4_rnn": ("final", "validation/accuracy", (70, 85)),
    "hw4_seq2seq": ("random", "validation/perplexity", (7, 5)),
    "hw4_vit": ("train", "validation/accuracy", (65, 80, 90, 94)),
}


def seconds_to(folder: Path, tag: str, goals: tuple[float, ...]) -> dict[str, float | None]:
    """Seconds of training until the end of the first epoch at each goal or beyond; None where it was not reached."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    began, points = events.FirstEventTimestamp(), events.Scalars(tag)
    falling = "perplexity" in tag
    reached = {}
    for goal in goals:
        times = [p.wall_time for p in points if (p.value < goal if falling else p.value >= goal)]
        reached[f"{'below' if falling else 'from'} {goal}"] = round(min(times) - began, 2) if times else None
    return reached | {"whole training": round(points[-1].wall_time - began, 2)}


def matrix_rate() -> float:
    """Tera-operations a second of one large product, in bfloat16 on a GPU and float32 on a CPU."""
    gpu = torch.cuda.is_available()
    n, kind = (8192, torch.bfloat16) if gpu else (2048, torch.float32)
    a, b = (torch.randn(n, n, device="cuda" if gpu else "cpu", dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best / 1e12


def run_cells(path: Path) -> None:
    """Execute all code cells of a notebook in this process, without its magics."""
    import matplotlib

    matplotlib.use("Agg")
    module = {"__name__": "__main__"}
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code":
            exec(compile(python(cell), f"{path.stem}, cell {number}", "exec"), module)


def reach(name: str, data: str, out: Path) -> dict:
    """Run one notebook and collect what it reached."""
    if left := next((ROOT / "runs" / TASKS[name]).rglob(checkpoint.NAME), None):
        raise RuntimeError(
            f"{left} is of an interrupted training, which would shorten this one: finish it or remove it"
        )
    began = time.perf_counter()
    with (out / f"{name}.log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        if importlib.util.find_spec("papermill") and importlib.util.find_spec("ipykernel"):
            from tools.run_notebooks import execute

            if error := execute(name, data, in_place=False).get("error"):
                raise RuntimeError(f"{name} stopped ({error}); its log is {out / name}.log")
            shutil.copyfile(ROOT / "build" / data / f"{name}.ipynb", out / f"{name}.ipynb")
        else:
            run_cells(ROOT / f"{name}.ipynb")
    result = json.loads((ROOT / "runs" / TASKS[name] / "result.json").read_text())
    folder, tag, goals = GOALS[name]
    times = seconds_to(ROOT / "runs" / TASKS[name] / result["data"] / folder, tag, goals)
    return result | {"reached": times, "notebook_seconds": time.perf_counter() - began}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("auto", "real", "sample"), default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "reach")
    parser.add_argument("notebooks", nargs="*", metavar="notebook", help=f"by default {', '.join(TASKS)}")
    arguments = parser.parse_args()
    names = chosen(parser, [Path(name).stem for name in arguments.notebooks], TASKS)
    os.environ["HW4_DATA"] = arguments.data
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    said = {"device": device, "torch": torch.__version__, "matrix_tera_ops": round(matrix_rate(), 2)}
    print(said, flush=True)
    for name in names:
        said[name] = reach(name, arguments.data, arguments.out)
        (arguments.out / "reach.json").write_text(json.dumps(said, indent=2))
        result = said[name]
        print(f"{name:<12} {result['data']:<7} {result['metric']} {result['value']:.2f}, "
              f"seconds: {result['reached']}, notebook {result['notebook_seconds']:.0f}", flush=True)  # fmt: skip
    return 0 if all(said[name]["passed"] for name in names) else 1


if __name__ == "__main__":
    sys.exit(main())
