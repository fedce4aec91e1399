"""What every training repeats: curves in TensorBoard, a line and a checkpoint an epoch, going on where it stopped."""

import math
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common import checkpoint

Curves = dict[str, tuple[list[float], list[float]]]  # tag -> (epochs, values)
LOG_EVERY = 10  # steps between two points of the curves by step
_EVENTS = "events.out.tfevents.*"
_FORMATS = {"loss": ".4f", "accuracy": ".2f", "perplexity": ".2f", "rate": ".2e", "seconds": ".0f"}


def warmup_cosine(step: int, total_steps: int, warmup_steps: int = 0) -> float:
    """The fraction of the peak learning rate at ``step`` of ``total_steps``, both counted from 1.

    It rises linearly over the first ``warmup_steps`` and falls along half a cosine, to 0 at ``total_steps``
    (Loshchilov and Hutter 2017, SGDR, without restarts).
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def progress(items: Collection, description: str, unit: str, *, done: int = 0, total: int | None = None) -> tqdm:
    """The same items, with a bar that leaves nothing behind; ``done`` of ``total`` were over before."""
    # On stdout, where the next printed line takes the bar's place; two streams would leave an empty line for each bar.
    total = len(items) if total is None else total
    return tqdm(items, description, total, leave=False, file=sys.stdout, ncols=90, unit=unit, initial=done)


class Run:
    """One training, from its first epoch to its last, over as many sessions as it takes.

    ::

        run = Run("runs/mine", epochs=10, depends_on=(config, data, train, Model), model=model, optimizer=optimizer)
        for epoch in run.epochs():
            for batch in run.progress(batches):
                ...
                run.step(loss, learning_rate)
            run.record(train_loss=..., validation_loss=...)

    Everything after this is as if no interruption had happened, bit for bit, provided that all state that changes
    lies in ``parts`` and in the global random generators.

    Args:
        folder: the run gets a folder of its own in there, named by the digest of all that it depends on, for its
            checkpoint and TensorBoard's event files. So trying another setting destroys nothing.
        epochs: how many.
        depends_on: settings, data, and the functions and classes that train: see :func:`common.checkpoint.digest`.
            Optimizers among the parts are taken as well.
        resume: go on from the checkpoint in that folder, also if the training was finished.
        keep: the parts to keep once the training is done.
        hparams: hyperparameters for TensorBoard's HParams page.
        outcome: the recorded number that the page shows beside them.
        shown: print a line an epoch and show progress bars.
        parts: model, optimizer, schedule, generators, ...: see :func:`common.checkpoint.save`.

    Attributes:
        folder: its own one.
        history: a dictionary of numbers for each finished epoch, with the ``seconds`` since the start of training.
        resumed: how many epochs an earlier session has done.
    """

    def __init__(
        self,
        folder: str | Path,
        epochs: int,
        *,
        depends_on: tuple,
        resume: bool = True,
        keep: Collection[str] = ("model",),
        hparams: dict[str, str | float] | None = None,
        outcome: str = "validation_loss",
        shown: bool = True,
        **parts: Any,
    ):
        stateful = nn.Module | torch.Generator | LRScheduler  # their settings are in depends_on
        described = {name: part for name, part in parts.items() if not isinstance(part, stateful)}
        self.folder = Path(folder) / checkpoint.digest(epochs, depends_on, described)
        self.path, self.parts, self.count = self.folder / "checkpoint.pt", parts, epochs
        self.resume, self.keep, self.hparams, self.outcome, self.shown = resume, keep, hparams, outcome, shown
        self.history: list[dict[str, float]] = []
        self.steps = self.resumed = 0
        self._waiting: list[Tensor] = []  # losses since the last point of the curve, on the device

    def epochs(self) -> Iterator[int]:
        """The numbers of the epochs that are left, from 1. Call :meth:`record` at the end of each."""
        if self.resume and (saved := checkpoint.restore(self.path, self.parts)):
            self.history, self.steps = saved["history"], saved["steps"]
            self.resumed = len(self.history)
            if self.shown:
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.path.stat().st_mtime))
                print(f"resumed: {self.resumed} of {self.count} epochs were done on {when}, in {self.folder}")
                print("(to train afresh, set resume = False or delete that folder)")
                for epoch in range(1, self.resumed + 1):
                    self._print(epoch)
        if self.resumed >= self.count:
            return
        before = self.history[-1]["seconds"] if self.history else 0.0
        self._began = time.perf_counter() - before
        with _open_writer(self.folder, self.steps) as self._writer:
            for epoch in range(self.resumed + 1, self.count + 1):
                yield epoch
                if len(self.history) != epoch:
                    raise RuntimeError(f"epoch {epoch} ended without a call of record()")

    def progress(self, batches: Collection) -> Collection:
        """The batches of one epoch, with a bar that shows the time left for the whole training."""
        if not self.shown:
            return batches
        done, total = (n * len(batches) for n in (len(self.history), self.count))
        return progress(batches, "training", "batch", done=done, total=total)

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Count a step and draw the curves of training loss and learning rate.

        The loss is read from the device every ``LOG_EVERY`` steps, so that a GPU does not wait in each of them.
        """
        self.steps += 1
        self._waiting.append(loss.detach())
        self._rate = learning_rate
        if len(self._waiting) == LOG_EVERY:
            self._draw_step()

    def _draw_step(self) -> None:
        mean = sum(self._waiting).item() / len(self._waiting)
        self._log({"step/loss": mean, "step/learning_rate": self._rate})
        self._waiting = []

    def record(self, **numbers: float) -> None:
        """End an epoch: its numbers go to TensorBoard, the history and the output, and a checkpoint is written.

        ``validation_loss=...`` and ``train_loss=...`` share TensorBoard's chart ``loss``.
        """
        if self._waiting:  # the rest of the epoch, or all of a short one
            self._draw_step()
        self.history.append({**numbers, "seconds": time.perf_counter() - self._began})
        self._log({_tag(name): value for name, value in self.history[-1].items()})
        done = len(self.history) == self.count
        with _disk_advice(self.folder):
            if done and self.hparams:  # the page finds a run by its folder, and "." is that of the curves themselves
                outcome = {f"outcome/{self.outcome}": numbers[self.outcome]}
                self._writer.add_hparams(self.hparams, outcome, run_name=".", global_step=self.steps)
            self._writer.flush()
        saved = {"history": self.history, "steps": self.steps}
        checkpoint.save(self.path, saved, self.parts, self.keep if done else None)
        if self.shown:
            self._print(len(self.history))

    def _log(self, values: dict[str, float]) -> None:
        with _disk_advice(self.folder):
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, self.steps)

    def _print(self, epoch: int) -> None:
        row = self.history[epoch - 1]
        titles = [name.replace("_", " ") for name in row]
        if epoch == 1:
            print("  ".join(["epoch", *titles]))
        formats = [_FORMATS.get(name.rpartition("_")[2], ".4g") for name in row]
        cells = [format(value, f"{len(title)}{f}") for title, f, value in zip(titles, formats, row.values())]
        print("  ".join([f"{epoch:5d}", *cells]))


def seconds_to(history: list[dict[str, float]], name: str, reached: Callable[[float], bool]) -> float | None:
    """The seconds of training after which a recorded number was good enough; None if it never was."""
    return next((row["seconds"] for row in history if reached(row[name])), None)


def read_run(folder: str | Path) -> Curves:
    """All curves of the run in ``folder``, by tag, over epochs.

    Raises:
        FileNotFoundError: if no event file lies there.
    """
    if not any(Path(folder).glob(_EVENTS)):
        raise FileNotFoundError(f"no TensorBoard event file in {folder}: run the training cell first")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    steps_per_epoch = scalars["seconds"][0].step
    return {tag: ([e.step / steps_per_epoch for e in row], [e.value for e in row]) for tag, row in scalars.items()}


def _tag(name: str) -> str:
    part, _, quantity = name.partition("_")
    return f"{quantity}/{part}" if part in ("train", "validation") else name


def _open_writer(folder: Path, finished_steps: int) -> SummaryWriter:
    """A writer that goes on after ``finished_steps``: what was logged later counts no more; 0 starts from scratch."""
    for path in sorted(folder.glob(_EVENTS)):
        if not finished_steps:
            path.unlink()
        else:  # files are read in the order of their names, which hold the second of their creation: be later
            time.sleep(max(0.0, int(path.name.split(".")[3]) + 1 - time.time()))
    threading.excepthook = _without_writers_traceback
    with _disk_advice(folder):
        return SummaryWriter(str(folder), purge_step=finished_steps + 1 if finished_steps else None)


def _without_writers_traceback(args: Any, default: Callable = threading.excepthook) -> None:
    # The thread that writes events hands its error to the next call of the writer, where _disk_advice explains it.
    if not (isinstance(args.exc_value, OSError) and "Writer" in type(args.thread).__name__):
        default(args)


@contextmanager
def _disk_advice(folder: Path) -> Iterator[None]:
    """Say where it failed and what to do if TensorBoard's files cannot be written."""
    try:
        yield
    except OSError as error:
        advice = "free some space, or choose another folder for runs"
        raise OSError(error.errno, f"the curves in {folder} were not written ({error}): {advice}") from error
