"""Kill trainings at random moments, resume them, and compare what comes out with an undisturbed run.

The cells of a notebook that its training needs are executed on small samples and with small settings; then the cells
tagged ``train`` run in processes of their own. SIGKILL meets these at random times, in the middle of writing a
checkpoint, and just before and just after the finished file gets its name; the next process resumes from what is left.
In the end all models must equal those of a run that nobody disturbed, bit for bit, and TensorBoard's curves must have
the same points.

Usage: python -m tools.chaos [--kills 20] [--seed 1] [--write] [rnn] [seq2seq] [vit]
"""

import argparse
import contextlib
import functools
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import types
from pathlib import Path

import matplotlib
import torch

from common import checkpoint, files, session, tracking
from data import samples
from tools import tables
from tools.globals import needed_cells
from tools.notebooks import TASKS, chosen, python, read, run_cell, tags

RUNS = f"build/chaos/{os.getpid()}"  # relative: each process resumes in a working folder of its own
SETTINGS = {
    "rnn": {
        "input_size": 32,
        "hidden_size": 64,
        "batch_size": 50,
        "validation": 50,
        "search_texts": 20,
        "search_epochs": 1,
    },
    "seq2seq": {"emb_dim": 16, "hid_dim": 16, "batch_size": 32},
    "vit": {"dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "batch_size": 20, "full_epochs": 2},
}
TRAININGS = {"rnn": 2, "seq2seq": 2, "vit": 1}  # in the cells tagged ``train``
SIZES = {  # of the generated samples
    "news": {"train_size": 300, "test_size": 20},
    "sentence_pairs": {"count": 300},
    "images": {"train_size": 120, "test_size": 20},
}
AIMED = ("half written", "before its name", "after its name")  # moments of writing the checkpoint's file
WEIGHTS = "weights.pt"


def prepare(name: str, settings: dict[str, object]) -> tuple[dict, list[tuple[int, str]]]:
    """Execute the cells of a notebook that its training needs; returns their names and the cells that train."""
    notebook = read(name)
    training = [i for i, cell in enumerate(notebook.cells) if tags(cell) & {"train", "define"} == {"train"}]
    if not training:
        raise ValueError(f"{name} has no cell tagged 'train'")
    for key in [key for key in os.environ if key.startswith("HW4_")]:
        del os.environ[key]
    for key, value in {**settings, "data": "sample", "device": "cpu", "runs": RUNS}.items():
        os.environ[f"HW4_{key.upper()}"] = str(value)
    for function, sizes in SIZES.items():
        setattr(samples, function, functools.partial(getattr(samples, function), **sizes))
    module = types.ModuleType(name)
    sys.modules[name] = module
    for number in needed_cells(notebook, training):
        run_cell(name, number, python(notebook.cells[number]), module.__dict__)
    shutil.rmtree(RUNS)  # what was trained before, such as a search, is done with
    return module.__dict__, [(i, python(notebook.cells[i])) for i in training]


def arm(moment: str, checkpoints: int) -> None:
    """Let this process be killed at that moment of its writing the checkpoint of that number, counted from 1."""
    written = 0

    def kill() -> None:
        nonlocal written
        written += 1
        if written == checkpoints:
            os.kill(os.getpid(), signal.SIGKILL)

    atomic_write, rename = files.atomic_write, os.replace

    @contextlib.contextmanager
    def half_a_file(path):
        with atomic_write(path) as file:
            write = file.write

            def half(content):
                write(content[: len(content) // 2])
                file.flush()
                if len(content) > 1000:  # the head of the file is a short write of its own
                    kill()
                write(content[len(content) // 2 :])

            file.write = half
            yield file

    def replace(*paths):
        if moment == "before its name":
            kill()
        rename(*paths)
        if moment == "after its name":
            kill()

    if moment == "half written":
        checkpoint.atomic_write = half_a_file
    else:
        files.os.replace = replace


def models(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """All parameters and buffers of the models among a notebook's names, also those in lists and dictionaries."""
    if isinstance(value, torch.nn.Module):
        return {f"{path}.{key}": tensor for key, tensor in value.state_dict().items()}
    items = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    found = {}
    for key, item in items.items():
        if isinstance(item, torch.nn.Module | dict | list | tuple) and not str(key).startswith("__"):
            found |= models(item, f"{path}/{key}")
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def start(name: str, prepared: tuple, folder: Path, moment: str | None = None, checkpoints: int = 1) -> int:
    """Fork a process that trains in ``folder`` and leaves the weights there; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        os.chdir(folder)
        session.run_folder(RUNS, TASKS[name], "sample")  # as the notebook does, which also locks it
        namespace, training = prepared
        if moment:
            arm(moment, checkpoints)
        for number, source in training:
            run_cell(name, number, source, namespace)
        torch.save(models(namespace), WEIGHTS)
        os._exit(0)
    except BaseException as error:
        Path("error").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)


def checkpoints_in(folder: Path) -> dict[Path, int]:
    """The checkpoints below a folder, of trainings under way or finished, and when they were written."""
    paths = [path for name in (checkpoint.NAME, checkpoint.FINAL) for path in folder.rglob(name)]
    return {path: path.stat().st_mtime_ns for path in paths}


def finished_epochs(folder: Path) -> int:
    """How many epochs the checkpoints below a folder have saved."""
    return sum(len(checkpoint.read(path)["progress"]["history"]) for path in checkpoints_in(folder))


def wait_for_a_checkpoint(folder: Path, seconds: float = 20.0) -> None:
    """Return as soon as another checkpoint is written."""
    before, end = checkpoints_in(folder), time.monotonic() + seconds
    while time.monotonic() < end and checkpoints_in(folder) == before:
        time.sleep(0.001)


def curves(folder: Path) -> dict[tuple[str, str], tuple]:
    """All points of all curves below a folder, without those that count seconds."""
    runs = {path.parent for path in folder.rglob(tracking.EVENTS)}
    found = {
        (str(run.relative_to(folder)), tag): points for run in runs for tag, points in tracking.read_run(run).items()
    }
    return {key: points for key, points in found.items() if "seconds" not in key[1]}


def disturb(name: str, kills: int, draw: random.Random, settings: dict[str, object]) -> dict:
    """Train once undisturbed and once with kills; returns what the table states."""
    with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
        prepared = prepare(name, settings)
    with tempfile.TemporaryDirectory() as temporary:
        calm, disturbed = Path(temporary) / "calm", Path(temporary) / "disturbed"
        calm.mkdir(), disturbed.mkdir()
        began = time.monotonic()
        os.waitpid(start(name, prepared, calm), 0)
        epoch_seconds = (time.monotonic() - began) / max(1, finished_epochs(calm))
        moments = [AIMED[i % 3] if i % 2 else None for i in range(kills)]
        draw.shuffle(moments)
        killed, saved = 0, []
        for moment in moments:
            process = start(name, prepared, disturbed, moment, draw.randint(1, 2))
            if moment is None:
                if draw.random() < 0.7:  # else it may still be starting when it is killed
                    wait_for_a_checkpoint(disturbed)
                time.sleep(draw.uniform(0, 2 * epoch_seconds))
                os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            killed += os.WIFSIGNALED(status)
            saved.append(finished_epochs(disturbed))
        os.waitpid(start(name, prepared, disturbed), 0)
        for folder in (calm, disturbed):
            if (folder / "error").exists():
                return {"kills": killed, "error": (folder / "error").read_text()}
        expected, found = (torch.load(folder / WEIGHTS, weights_only=True) for folder in (calm, disturbed))
        return {
            "kills": killed,
            "writing": sum(moment is not None for moment in moments),
            "saved": saved,
            "epochs": finished_epochs(calm),
            "weights": same(expected, found) and not same(expected, models(prepared[0])),
            "curves": curves(calm) == curves(disturbed) != {},
        }


def line(name: str, outcome: dict) -> str:
    """The model's row of the table."""
    if "error" in outcome:
        return f"| {name} | {outcome['kills']} | | | {outcome['error']} | |"
    weights = "equal, bit for bit" if outcome["weights"] else "DIFFERENT"
    points = "the same points" if outcome["curves"] else "GAPS OR DOUBLE POINTS"
    saved = f"{' '.join(map(str, outcome['saved']))} of {outcome['epochs']}"
    return f"| {name} | {outcome['kills']} | {outcome['writing']} | {saved} | {weights} | {points} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each model's training (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--write", action="store_true", help="put the table into docs/verification.md")
    parser.add_argument("models", nargs="*", metavar="model", help=f"by default {', '.join(SETTINGS)}")
    arguments = parser.parse_args()
    names = {task: name for name, task in TASKS.items()}
    matplotlib.use("Agg")
    torch.set_num_threads(1)  # a process made by fork cannot use its parent's threads
    draw, passed, commit = random.Random(arguments.seed), True, tables.current_commit("chaos")
    lines = [
        "| model | killed | of these while a checkpoint was written | epochs saved at each kill | final weights "
        "| curves |",
        "| --- " * 6 + "|",
    ]
    for task in chosen(parser, arguments.models, SETTINGS):
        epochs = math.ceil((4 + 3 * arguments.kills) / TRAININGS[task])  # a kill is at most three epochs after the last
        outcome = disturb(names[task], arguments.kills, draw, SETTINGS[task] | {"epochs": epochs})
        lines.append(line(task, outcome))
        print(lines[-1], flush=True)
        whole = outcome.get("weights") and outcome.get("curves")
        passed &= bool(whole) and outcome["kills"] == arguments.kills
    if arguments.write:
        tables.write("chaos", lines, commit)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
