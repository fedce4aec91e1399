"""Watching a training: progress bars, and TensorBoard event files, written and read back for static figures."""

import sys
import time
from collections.abc import Collection
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

Curves = dict[str, tuple[list[int], list[float]]]  # tag -> (steps, values)
EVENTS = "events.out.tfevents.*"


def open_run(folder: str | Path, finished_steps: int = 0) -> SummaryWriter:
    """A writer for one run.

    Args:
        folder: where the run's event files lie.
        finished_steps: after how many steps the run goes on; what was logged later counts no more. 0 starts
            from scratch and removes the event files of an earlier run.
    """
    for path in sorted(Path(folder).glob(EVENTS)):
        if not finished_steps:
            path.unlink()
        else:  # files are read in the order of their names, which hold the second of their creation: be later
            time.sleep(max(0.0, int(path.name.split(".")[3]) + 1 - time.time()))
    return SummaryWriter(str(folder), purge_step=finished_steps + 1 if finished_steps else None)


def progress(
    items: Collection, description: str, unit: str, finished: int = 0, rounds: int = 1, shown: bool = True
) -> tqdm:
    """The same items, with a bar that shows the time left for all rounds.

    Args:
        items: what one round goes through.
        description: a word or two in front of the bar.
        unit: what one item is called.
        finished: how many rounds of the same length are done.
        rounds: how many there are in all.
        shown: False for no bar, within something that shows one of its own.
    """
    # On stdout, where the next printed line takes the bar's place; two streams would leave an empty line for each bar.
    return tqdm(
        items,
        description,
        total=rounds * len(items),
        initial=finished * len(items),
        unit=unit,
        leave=False,
        file=sys.stdout,
        disable=not shown,
        ncols=90,
    )


def tag(name: str) -> str:
    """TensorBoard's tag for a number: ``train_loss`` and ``validation_loss`` share the chart ``loss``."""
    part, _, quantity = name.partition("_")
    return f"{quantity}/{part}" if part in ("train", "validation") else name


def log_options(writer: SummaryWriter, step: int, options: dict[str, str | float], outcome: dict[str, float]) -> None:
    """Log a run's options and what they led to at its last step, for TensorBoard's page of hyperparameters."""
    # The page finds a run by its folder, and "." is the folder of the curves themselves.
    outcome = {f"outcome/{name}": value for name, value in outcome.items()}
    writer.add_hparams(options, outcome, run_name=".", global_step=step)
    writer.flush()


def read_run(folder: str | Path) -> Curves:
    """All scalars of the run in ``folder``, by tag.

    Raises:
        FileNotFoundError: if no event file lies there.
    """
    if not any(Path(folder).glob(EVENTS)):
        raise FileNotFoundError(f"no TensorBoard event file in {folder}: run the training cell first")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: ([e.step for e in events.Scalars(tag)], [e.value for e in events.Scalars(tag)])
        for tag in events.Tags()["scalars"]
    }
