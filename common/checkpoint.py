"""Checkpoints that survive an interruption: whole or not there at all, refused when they do not fit."""

import hashlib
import io
import os
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.files import atomic_write

NAME = "checkpoint.pt"
_MARK = b"hw4 checkpoint, sha256 of what follows: "  # then 64 hexadecimal digits, a line feed, and torch.save's bytes


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


def _write(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
    with atomic_write(path) as file:
        file.write(_MARK + digest + b"\n")
        file.write(buffer.getbuffer())


def _read(path: Path) -> dict[str, Any]:
    stored = path.read_bytes()
    head, body = stored[: len(_MARK) + 65], memoryview(stored)[len(_MARK) + 65 :]
    if not head.startswith(_MARK):
        raise ValueError("it is not one of this project")
    if head[len(_MARK) : -1] != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its content does not have the checksum that was written with it")
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


class Checkpoint:
    """The state of one training, saved after every epoch.

    Args:
        folder: where the file lies, as ``checkpoint.pt``.
        parameters: what the training depends on (numbers and strings); a file written under other
            parameters is refused.
        parts: everything with ``state_dict()`` and ``load_state_dict()`` (model, optimizer, ...) or
            with ``get_state()`` and ``set_state()`` (a ``torch.Generator``).
    """

    def __init__(self, folder: str | Path, parameters: dict[str, Any], **parts: Any):
        self.path = Path(folder) / NAME
        self.parameters = parameters
        self.parts = parts

    def save(self, epoch: int, history: list[dict[str, float]], only: Collection[str] | None = None) -> None:
        """Write the state after ``epoch`` finished epochs; the old file stays until the new is whole.

        ``only`` names the parts to write, by default all: of a finished training, those used later.
        """
        parts = {name: part for name, part in self.parts.items() if only is None or name in only}
        content = {
            "epoch": epoch,
            "history": history,
            "parameters": self.parameters,
            "random": _random_states(),
            "parts": {
                name: part.state_dict() if hasattr(part, "state_dict") else part.get_state()
                for name, part in parts.items()
            },
        }
        _write(self.path, content)

    def restore(self, resume: bool = True) -> tuple[int, list[dict[str, float]]]:
        """Go on from the file, if there is one and ``resume`` says so.

        Returns:
            How many epochs are finished and their history; ``(0, [])`` for a fresh start. A file
            that is damaged or not a checkpoint is named, moved aside to ``*.damaged`` and not used.

        Raises:
            ValueError: if the file was written under other parameters, or by a model of another shape;
                names the differences.
        """
        for rest in self.path.parent.glob(f"{NAME}.*.part"):  # a process killed while it wrote
            rest.unlink()
        if not resume or not self.path.exists():
            return 0, []
        try:
            content = _read(self.path)
        except ValueError as error:
            aside = self.path.with_suffix(".damaged")
            os.replace(self.path, aside)
            print(f"{self.path} is no usable checkpoint ({error}); kept as {aside.name}, training starts afresh")
            return 0, []
        there, now = content["parameters"], self.parameters
        differences = [
            f"{name}: {there.get(name)!r} there, {now.get(name)!r} now"
            for name in sorted(there.keys() | now.keys())
            if there.get(name) != now.get(name)
        ]
        remedy = "set resume to False, or remove the file"
        if differences:
            raise ValueError(f"{self.path} was written under other parameters ({'; '.join(differences)}): {remedy}")
        try:
            for name, state in content["parts"].items():
                part = self.parts[name]
                (part.load_state_dict if hasattr(part, "state_dict") else part.set_state)(state)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.path} was written by other code and does not fit ({reason}): {remedy}") from error
        _set_random_states(content["random"])
        print(f"going on from {self.path} after epoch {content['epoch']}")
        return content["epoch"], content["history"]


def forget(folder: str | Path) -> None:
    """Remove all checkpoints below ``folder``: the result is there, and the next run trains anew."""
    for path in Path(folder).rglob(NAME):
        path.unlink()
