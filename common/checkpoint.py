"""Checkpoints that survive an interruption: atomic, checked, and used only for the training that wrote them."""

import hashlib
import io
import os
import pickle
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.files import atomic_write

NAME = "checkpoint.pt"  # of a training that goes on
FINAL = "final.pt"  # of a training whose notebook has printed its result
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
    if torch.cuda.is_available():  # as many GPUs as both machines have
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def _state(part: Any) -> Any:
    return part.state_dict() if hasattr(part, "state_dict") else part.get_state()


def _set_state(part: Any, state: Any) -> None:
    if not hasattr(part, "state_dict"):
        part.set_state(state)
    elif state != {} or not isinstance(part, torch.amp.GradScaler):  # {}: no scaler was in use where it was written
        part.load_state_dict(state)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` with its checksum, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
    with atomic_write(path) as file:
        file.write(_MARK + digest + b"\n")
        file.write(buffer.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """Read what :func:`write` wrote; no code in the file is ever run.

    Raises:
        ValueError: if the file is damaged or something else.
    """
    stored = path.read_bytes()
    head, body = stored[: len(_MARK) + 65], memoryview(stored)[len(_MARK) + 65 :]
    if not head.startswith(_MARK):
        raise ValueError("not a checkpoint of this project")
    if head[len(_MARK) : -1] != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its content does not match its checksum")
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("it holds more than numbers and texts") from error


class Checkpoint:
    """The state of one training, saved after every epoch.

    Args:
        folder: where the file lies, as ``checkpoint.pt``; as ``final.pt`` after :func:`finish`.
        key: all that the training depends on, as numbers and texts; a file with another key is not used.
        parts: everything with ``state_dict()`` and ``load_state_dict()`` (model, optimizer, ...) or
            with ``get_state()`` and ``set_state()`` (a ``torch.Generator`` of the CPU).
    """

    def __init__(self, folder: str | Path, key: dict[str, Any], **parts: Any):
        self.path = Path(folder) / NAME
        self.key = key
        self.parts = parts

    def save(self, progress: dict[str, Any], only: Collection[str] | None = None) -> None:
        """Write the state; the old file stays until the new one is complete.

        Args:
            progress: how far the training is: numbers, texts, lists and dictionaries of them.
            only: the parts to write, by default all: of a finished training, those used later.
        """
        parts = {name: _state(part) for name, part in self.parts.items() if only is None or name in only}
        write(self.path, {"progress": progress, "key": self.key, "random": _random_states(), "parts": parts})

    def restore(self, resume: bool = True, reuse: bool = False) -> dict[str, Any] | None:
        """Load the parts and the random states, and return the progress that was saved with them.

        A damaged file is moved aside to ``*.damaged``, a checkpoint with another key to ``*.previous``; a line tells.

        Args:
            resume: take ``checkpoint.pt``.
            reuse: take ``final.pt`` where there is no checkpoint to resume from.

        Returns:
            The progress, or None to start from scratch.
        """
        for path, wanted in ((self.path, resume), (self.path.with_name(FINAL), reuse)):
            if wanted and path.exists():
                return self._restore(path)
        return None

    def _restore(self, path: Path) -> dict[str, Any] | None:
        try:
            content = read(path)
        except ValueError as error:
            os.replace(path, aside := path.with_suffix(".damaged"))
            print(f"{path} cannot be used ({error}): kept as {aside.name}; training starts from scratch")
            return None
        before, now = content["key"], self.key
        differences = [
            f"{name} differs"
            if name in ("code", "data")
            else f"{name}: {before.get(name)!r} there, {now.get(name)!r} now"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if not differences:
            try:
                for name, state in content["parts"].items():
                    _set_state(self.parts[name], state)
            except (RuntimeError, ValueError, KeyError) as error:  # a library that stores its state in another way
                differences.append(" ".join(str(error).split()))
        if differences:
            print(f"{path} belongs to another training ({'; '.join(differences)})", end=": ")
            if path.name == FINAL:
                print("training starts from scratch")
            else:
                os.replace(path, aside := path.with_suffix(".previous"))
                print(f"kept as {aside.name}; training starts from scratch")
            return None
        _set_random_states(content["random"])
        return content["progress"]


def finish(folder: str | Path, result: dict[str, Any]) -> None:
    """Turn all checkpoints below ``folder`` into ``final.pt`` files that hold ``result`` as well.

    The next run trains again, unless it asks to reuse them.
    """
    for path in Path(folder).rglob(NAME):
        write(path.with_name(FINAL), {**read(path), "result": result})
        path.unlink()
