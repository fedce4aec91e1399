"""Settings: frozen dataclasses, their defaults overridden by the environment, every value checked."""

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

C = TypeVar("C")
FURTHER = "HW4_FURTHER_"  # in front of the settings of a notebook's second part
ELSEWHERE = {"HW4_AG_NEWS_URL", "HW4_ENG_FRA_URL", "HW4_CIFAR10_URL"}  # read by the package data


@dataclass(frozen=True)
class Shared:
    """What the settings of all three notebooks begin with: where and how to run."""

    data: str = "auto"  # auto, real or sample
    data_dir: str = ""  # folder with the data files; empty: data/cache, then a download
    device: str = "auto"  # auto, cuda or cpu
    runs: str = "runs"  # logs and checkpoints; /content/drive/MyDrive/hw4-runs survives a disconnect
    resume: bool = True  # go on from the checkpoints of the same training, finished or not
    seed: int = 1234


def check(
    config: Any,
    *,
    choices: Mapping[str, Collection[str]] | None = None,
    fractions: Collection[str] = (),
    zero_allowed: Collection[str] = (),
) -> None:
    """Check the types and ranges of a settings dataclass; called from its ``__post_init__``.

    Args:
        config: the dataclass; its fields are annotated with ``int``, ``float``, ``str`` or ``bool``.
        choices: for a text, the values it may have.
        fractions: numbers from 0 to below 1.
        zero_allowed: numbers of 0 or more; all others must be above 0, and all of them finite.

    Raises:
        TypeError: for a value of another type.
        ValueError: for a value out of range. Both name the setting, its value and what was expected.
    """
    choices = {"data": ("auto", "real", "sample"), "device": ("auto", "cuda", "cpu"), **(choices or {})}
    for field in fields(config):
        name, value = f"{type(config).__name__}.{field.name}", getattr(config, field.name)
        expected = (int, float) if field.type is float else field.type  # 1 is a fine float, True is no number
        if not isinstance(value, expected) or (isinstance(value, bool) and field.type is not bool):
            raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: expected {field.type.__name__}")
        if field.name in choices and value not in choices[field.name]:
            raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices[field.name])}")
        if field.type not in (int, float):
            continue
        if field.name in fractions:
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}: expected a fraction, from 0 to below 1")
        elif field.name in (*zero_allowed, "seed"):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: expected 0 or more")
        elif not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}: expected more than 0, and finite")


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("0", "1", "false", "true"):
            raise ValueError(f"the environment variable {name} is {text!r}: expected 1 or 0, true or false")
        return text.lower() in ("1", "true")
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"the environment variable {name} is {text!r}: expected {kind.__name__}") from error


def configure(cls: type[C], prefix: str = "HW4_", **preset: Any) -> C:
    """Make the settings: defaults of ``cls``, then ``preset``, then environment variables ``HW4_<FIELD>``.

    Args:
        cls: a dataclass that calls :func:`check`.
        prefix: of the environment variables; :data:`FURTHER` for the second part of a notebook.
        preset: values that suit the data or device found, such as a shorter training for the small sample.

    Raises:
        TypeError, ValueError: for a name or value that cannot be meant, whichever of the three it comes from.
    """
    values = dict(preset)
    known = {f"{prefix}{field.name.upper()}": field for field in fields(cls)}
    for name, text in os.environ.items():
        if not name.startswith(prefix) or name in ELSEWHERE or (prefix != FURTHER and name.startswith(FURTHER)):
            continue
        if name not in known:
            raise ValueError(f"the environment variable {name} is no setting: expected one of {', '.join(known)}")
        if text:
            values[known[name].name] = _parse(name, text, known[name].type)
    return cls(**values)
