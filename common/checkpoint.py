"""Checkpoints: written atomically, checked when read, and used only for the training that wrote them."""

import functools
import hashlib
import inspect
import io
import os
import pickle
import random
import types
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from common.files import atomic_write

_MARK = b"hw4 checkpoint, sha256 of what follows: "  # then 64 hexadecimal digits, a line feed, and torch.save's bytes


def digest(*values: Any) -> str:
    """Twelve digits that change with any of the values.

    Taken are numbers, texts, tensors, arrays and containers of them; functions and classes by their source text;
    ``functools.partial`` by what it holds; models by their classes and weights; optimizers by their class and settings;
    loaders by data and batches; other objects by their class and attributes. What a function calls is not followed:
    hand it over as well.

    Raises:
        TypeError: for a value that cannot be compared, such as an open file.
    """
    state = hashlib.sha256()

    def add(value: Any) -> None:
        state.update(f"{type(value).__name__}:".encode())
        if value is None or isinstance(value, bool | int | float | str | bytes | torch.device | torch.dtype | Path):
            state.update(f"{value!r};".encode())
        elif isinstance(value, torch.Tensor):
            add(value.detach().cpu().numpy())
        elif isinstance(value, np.ndarray):
            state.update(f"{value.dtype} {value.shape};".encode() + np.ascontiguousarray(value).tobytes())
        elif isinstance(value, dict | types.MappingProxyType):
            add([[key, value[key]] for key in value])
        elif isinstance(value, list | tuple | range):
            state.update(f"{len(value)};".encode())
            if all(isinstance(item, int | float | str) for item in value):  # fast for a long one
                state.update(repr(list(value)).encode())
            else:
                for item in value:
                    add(item)
        elif isinstance(value, functools.partial):
            add([value.func, value.args, value.keywords])
        elif isinstance(value, functools._lru_cache_wrapper):
            add(value.__wrapped__)
        elif isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | type):
            add(_source(value))
        elif isinstance(value, nn.Module):
            add([str(value), dict.fromkeys(map(type, value.modules())), value.state_dict()])
        elif isinstance(value, torch.optim.Optimizer):
            groups = [{name: group[name] for name in group if name != "params"} for group in value.param_groups]
            add([type(value).__qualname__, groups])
        elif isinstance(value, DataLoader):
            add([value.dataset, value.batch_size, value.batch_sampler, value.collate_fn])
        elif isinstance(value, torch.Generator):
            add(value.initial_seed())
        elif hasattr(value, "__dict__"):
            add([type(value), vars(value)])
        else:
            raise TypeError(f"{value!r} is a {type(value).__name__}: expected numbers, texts, tensors, functions ...")

    add(values)
    return state.hexdigest()[:12]


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # built in, or executed from a text that Python does not keep
        parts = [f"{function.__module__}.{function.__qualname__}"]
    if isinstance(function, type):  # of a notebook: Python finds the text of its methods alone
        for name, member in vars(function).items():
            member = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(member, types.FunctionType):
                parts.append(_source(member))
            elif isinstance(member, int | float | str | tuple) and not name.startswith("__"):
                parts.append(f"{name} = {member!r}")
    return "\n".join(parts)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` with its checksum, atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    checksum = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
    with atomic_write(path) as file:
        file.write(_MARK + checksum + b"\n")
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


def save(path: Path, progress: dict[str, Any], parts: dict[str, Any], keep: Collection[str] | None = None) -> None:
    """Write progress, random states and the states of the parts.

    Args:
        progress: how far the training is: numbers, texts, lists and dictionaries of them.
        parts: everything with ``state_dict()`` and ``load_state_dict()``, and generators of the CPU.
        keep: the parts to write, by default all: of a finished training, those used later.
    """
    states = {name: _state(part) for name, part in parts.items() if keep is None or name in keep}
    write(path, {"progress": progress, "random": _random_states(), "parts": states})


def restore(path: Path, parts: dict[str, Any]) -> dict[str, Any] | None:
    """Load all parts and the random states, or nothing.

    Returns:
        The progress saved with them; None if there is no such file, or one that does not fit or is damaged, which is
        then kept as ``*.damaged``; a line says so.
    """
    if not path.exists():
        return None
    before = {name: pickle.dumps(_state(part)) for name, part in parts.items()}
    try:
        content = read(path)
        for name, state in content["parts"].items():
            _set_state(parts[name], state)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        for name, part in parts.items():
            _set_state(part, pickle.loads(before[name]))
        os.replace(path, aside := path.with_suffix(".damaged"))
        print(f"{path} cannot be used ({' '.join(str(error).split())}): kept as {aside.name}; training starts afresh")
        return None
    _set_random_states(content["random"])
    return content["progress"]


def _state(part: Any) -> Any:
    return part.get_state() if isinstance(part, torch.Generator) else part.state_dict()


def _set_state(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    else:
        part.load_state_dict(state)


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
