"""Checkpoints that survive an interruption: whole or not there at all, refused when they do not fit."""

import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.files import whole_file


def _random_states() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


class Checkpoint:
    """The state of one training, saved after every epoch.

    Args:
        path: the file.
        parameters: what the training depends on (numbers and strings); a file written under other
            parameters is refused.
        parts: everything with ``state_dict()`` and ``load_state_dict()`` (model, optimizer, ...) or
            with ``get_state()`` and ``set_state()`` (a ``torch.Generator``).
    """

    def __init__(self, path: str | Path, parameters: dict[str, Any], **parts: Any):
        self.path = Path(path)
        self.parameters = parameters
        self.parts = parts

    def save(self, epoch: int, history: list[dict[str, float]]) -> None:
        """Write the state after ``epoch`` finished epochs; the old file stays until the new is whole."""
        content = {
            "epoch": epoch,
            "history": history,
            "parameters": self.parameters,
            "random": _random_states(),
            "parts": {
                name: part.state_dict() if hasattr(part, "state_dict") else part.get_state()
                for name, part in self.parts.items()
            },
        }
        with whole_file(self.path) as file:
            torch.save(content, file)

    def restore(self, resume: bool = True) -> tuple[int, list[dict[str, float]]]:
        """Go on from the file, if there is one and ``resume`` says so.

        Returns:
            How many epochs are finished and their history; ``(0, [])`` for a fresh start. A file
            that cannot be read is named, moved aside to ``*.damaged`` and not used.

        Raises:
            ValueError: if the file was written under other parameters; names the differences.
        """
        if not resume or not self.path.exists():
            return 0, []
        stored = io.BytesIO(self.path.read_bytes())  # what goes wrong below is the content's fault, not the disk's
        try:
            content = torch.load(stored, map_location="cpu", weights_only=True)
            written_under = content["parameters"]
            states = content["parts"]
            epoch, history, randomness = content["epoch"], content["history"], content["random"]
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            aside = self.path.with_suffix(".damaged")
            os.replace(self.path, aside)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"{self.path.name} is no readable checkpoint ({reason}); kept as {aside.name}, "
                  "training starts afresh")  # fmt: skip
            return 0, []
        names = written_under.keys() | self.parameters.keys()
        differences = [
            f"{name}: {written_under.get(name)!r} there, {self.parameters.get(name)!r} now"
            for name in sorted(names)
            if written_under.get(name) != self.parameters.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self.path} was written under other parameters ({'; '.join(differences)}): "
                "set them back, remove the file, or set resume to False"
            )
        for name, part in self.parts.items():
            (part.load_state_dict if hasattr(part, "state_dict") else part.set_state)(states[name])
        _set_random_states(randomness)
        print(f"going on from {self.path.name} after epoch {epoch}")
        return epoch, history

    def finish(self) -> None:
        """Remove the file: a finished training is not gone on with, the next run trains anew."""
        self.path.unlink(missing_ok=True)
