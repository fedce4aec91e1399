"""What a training depends on besides its settings: the code that it runs and the data that it reads."""

import functools
import hashlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

import torch

PACKAGES = ("common", "data")
# How a training is watched and kept changes no weight: edits there leave checkpoints valid.
NEUTRAL = {f"common.{name}" for name in ("training", "checkpoint", "tracking", "plotting", "files", "session")}
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def code_fingerprint(*functions: Any) -> str:
    """A digest of the functions' bytecode and of all project code and constants that they use, however indirectly.

    Followed are functions and classes of the first function's own module (a notebook, mostly) and of ``common`` and
    ``data``. Comments, docstrings and layout change nothing.
    """
    home = inspect.unwrap(functions[0]).__globals__["__name__"]
    lines, pending, seen = [], list(functions), set()
    while pending:
        value = pending.pop()
        if isinstance(value, types.MethodType | staticmethod | classmethod | property):
            value = value.fget if isinstance(value, property) else value.__func__
        value = inspect.unwrap(value) if callable(value) else value
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, functools.partial):
            pending += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, dict):
            lines.append(repr([key for key in value if isinstance(key, PLAIN)]))
            pending += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            pending += value
        elif isinstance(value, PLAIN):
            lines.append(repr(value))
        elif not _is_ours(value, home):
            lines.append(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}")
        elif isinstance(value, type):
            lines.append(f"class {value.__name__}")
            pending += [member for name, member in vars(value).items() if not name.startswith("__") or callable(member)]
            pending += value.__bases__
        else:
            names = set()
            for code in _codes(value.__code__):
                lines.append(f"{code.co_name} {code.co_code.hex()} {code.co_names} {_constants(code)!r}")
                names |= set(code.co_names)
            pending += [value.__globals__[name] for name in names if name in value.__globals__]
            for module in [v for v in (value.__globals__.get(n) for n in names) if isinstance(v, types.ModuleType)]:
                if module.__name__.split(".")[0] in PACKAGES:
                    pending += [vars(module)[name] for name in names if name in vars(module)]
            pending += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            pending += [v for v in inspect.getclosurevars(value).nonlocals.values() if callable(v)]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _is_ours(value: Any, home: str) -> bool:
    module = getattr(value, "__module__", None) or ""
    if not isinstance(value, types.FunctionType | type) or module in NEUTRAL:
        return False
    return module == home or module.split(".")[0] in PACKAGES


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _constants(code: types.CodeType) -> list[Any]:
    documented = bool(code.co_consts) and isinstance(code.co_consts[0], str)
    plain = [c for c in code.co_consts[documented:] if not isinstance(c, types.CodeType)]
    return [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in plain]  # a set has no order of its own


def data_fingerprint(*parts: Any) -> str:
    """A digest of tensors, texts, numbers, and lists or tuples of them."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        elif isinstance(part, list | tuple) and any(isinstance(item, torch.Tensor) for item in part):
            digest.update(data_fingerprint(*part).encode())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()
