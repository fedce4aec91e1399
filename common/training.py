"""What every training repeats: going on after an interruption, curves, a line an epoch, a checkpoint an epoch."""

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from common import tracking
from common.checkpoint import Checkpoint
from common.fingerprint import code_fingerprint, data_fingerprint

_FORMATS = {"loss": ".4f", "accuracy": ".2f", "perplexity": ".2f", "rate": ".2e", "seconds": ".0f"}


def _format(name: str, value: float) -> str:
    return format(value, _FORMATS.get(name.rpartition("_")[2], ".4g"))


class Run:
    """One training, from its first epoch to its last, over as many sessions as it takes.

    ::

        run = Run(folder, settings, code=fit, data=(train, validation), model=model, optimizer=optimizer)
        for epoch in run.epochs(10):
            for batch in run.progress(batches):
                ...
                run.step(loss, learning_rate)
            run.record(train_loss=..., validation_loss=...)

    Everything after this is as if no interruption had happened, bit for bit, provided that all state that changes
    lies in ``parts`` and in the global random generators.

    Args:
        folder: for the checkpoint and TensorBoard's event files.
        settings: numbers and texts that the training depends on.
        code: the function that trains, or several, such as those passed to it; they and all project code that they use
            belong to the checkpoint's key.
        data: tensors or lists that the training reads; likewise.
        resume: go on from the checkpoint of an interrupted training.
        reuse: take the final weights of a finished one, if settings, code and data are the same.
        keep: the parts worth keeping once the training is done.
        options: hyperparameters for TensorBoard's HParams page.
        outcome: the recorded number that the page shows beside them.
        shown: print a line an epoch and show progress bars.
        log_every: steps between two points of the curves by step.
        parts: model, optimizer, schedule, generators, ...: see :class:`common.checkpoint.Checkpoint`.

    Attributes:
        history: a dictionary of numbers for each finished epoch, with the ``seconds`` since the start of training.
        steps: how many steps (batches) are done.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: dict[str, Any],
        *,
        code: Callable | tuple[Callable, ...],
        data: Any = (),
        resume: bool = True,
        reuse: bool = False,
        keep: Collection[str] = ("model",),
        options: dict[str, str | float] | None = None,
        outcome: str = "validation_accuracy",
        shown: bool = True,
        log_every: int = 10,
        **parts: Any,
    ):
        functions = code if isinstance(code, tuple) else (code,)
        key = {**settings, "code": code_fingerprint(*functions), "data": data_fingerprint(*data)}
        self.folder, self.checkpoint = Path(folder), Checkpoint(folder, key, **parts)
        self.resume, self.reuse, self.keep = resume, reuse, keep
        self.options, self.outcome, self.shown, self.log_every = options, outcome, shown, log_every
        self.history: list[dict[str, float]] = []
        self.steps = 0
        self._waiting: list[Tensor] = []  # losses of the steps since the last point of the curve, on the device

    def epochs(self, count: int) -> Iterator[int]:
        """The numbers of the epochs that are left of ``count``, from 1; restores what an earlier session did.

        Call :meth:`record` at the end of each.
        """
        self.count = self.checkpoint.key["epochs"] = count
        progress = self.checkpoint.restore(self.resume, self.reuse)
        if progress:
            self.history, self.steps = progress["history"], progress["steps"]
            if self.shown:
                print(f"restored from {self.folder}: {len(self.history)} of {count} epochs")
                for epoch in range(1, len(self.history) + 1):
                    self._print(epoch, "restored")
        if len(self.history) >= count:
            return
        began, before = time.perf_counter(), self.history[-1]["seconds"] if self.history else 0.0
        self.seconds = lambda: before + time.perf_counter() - began
        with tracking.open_run(self.folder, self.steps) as self.writer:
            for epoch in range(len(self.history) + 1, count + 1):
                yield epoch
                if len(self.history) != epoch:
                    raise RuntimeError(f"epoch {epoch} ended without a call of record()")

    def progress(self, batches: Collection) -> tqdm:
        """The batches of one epoch, with a bar that shows the time left for the whole training."""
        return tracking.progress(batches, "training", "batch", len(self.history), self.count, shown=self.shown)

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Count a step and draw the curves of training loss and learning rate.

        The loss is read from the device every ``log_every`` steps, so that a GPU does not wait in each of them.
        """
        self.steps += 1
        self._waiting.append(loss.detach())
        if len(self._waiting) == self.log_every:
            mean = sum(self._waiting).item() / len(self._waiting)
            self.writer.add_scalar("loss/train", mean, self.steps)
            self.writer.add_scalar("learning_rate", learning_rate, self.steps)
            self._waiting = []

    def record(self, **numbers: float) -> None:
        """End an epoch: its numbers go to TensorBoard, the history and the output, and a checkpoint is written.

        ``validation_loss=...`` gets the tag ``loss/validation``; a tag that :meth:`step` draws is left to it.
        """
        drawn = ("loss/train", "learning_rate") if self.steps else ()
        for name, value in numbers.items():
            if tracking.tag(name) not in drawn:
                self.writer.add_scalar(tracking.tag(name), value, self.steps)
        self._waiting = []
        self.history.append({**numbers, "seconds": self.seconds()})
        done = len(self.history) == self.count
        if done and self.options:
            tracking.log_options(self.writer, self.steps, self.options, {self.outcome: numbers[self.outcome]})
        self.writer.flush()
        progress = {"history": self.history, "steps": self.steps}
        self.checkpoint.save(progress, only=self.keep if done else None)
        if self.shown:
            self._print(len(self.history))

    def _print(self, epoch: int, mark: str = "") -> None:
        row = self.history[epoch - 1]
        titles = [name.replace("_", " ") for name in row]
        if epoch == 1:
            print("  ".join(["epoch", *titles]))
        cells = [
            _format(name, value).rjust(len(title)) for title, (name, value) in zip(titles, row.items(), strict=True)
        ]
        print("  ".join([f"{epoch:5d}", *cells, mark]).rstrip())
