"""Settings of a notebook: one frozen dataclass, its defaults overridden by the environment, every value checked."""

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

C = TypeVar("C")
PLACES = ("data", "data_dir", "device", "runs", "resume", "reuse")  # where and how to run: no training depends on them


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
        zero_allowed: numbers of 0 or more; all others must be above 0.

    Raises:
        TypeError: for a value of another type.
        ValueError: for a value out of range. Both name the setting, its value and what was expected.
    """
    for field in fields(config):
        name, value = f"{type(config).__name__}.{field.name}", getattr(config, field.name)
        expected = (int, float) if field.type is float else field.type  # 1 is a fine float, True is no number
        if not isinstance(value, expected) or (isinstance(value, bool) and field.type is not bool):
            raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: expected {field.type.__name__}")
        if choices and field.name in choices and value not in choices[field.name]:
            raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices[field.name])}")
        if field.type not in (int, float):
            continue
        if field.name in fractions:
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}: expected a fraction, from 0 to below 1")
        elif field.name in zero_allowed:
            if not value >= 0:
                raise ValueError(f"{name} is {value}: expected 0 or more")
        elif not value > 0:
            raise ValueError(f"{name} is {value}: expected more than 0")


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("0", "1", "false", "true"):
            raise ValueError(f"the environment variable {name} is {text!r}: expected 1 or 0, true or false")
        return text.lower() in ("1", "true")
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"the environment variable {name} is {text!r}: expected {kind.__name__}") from error


def configure(cls: type[C], **preset: Any) -> C:
    """Make the settings: defaults of ``cls``, then ``preset``, then environment variables ``HW4_<FIELD>``.

    Args:
        cls: a dataclass that calls :func:`check`.
        preset: values that suit the data or device found, such as a shorter training for the small sample.

    Raises:
        TypeError, ValueError: for a name or value that cannot be meant, whichever of the three it comes from.
    """
    values = dict(preset)
    for field in fields(cls):
        name = f"HW4_{field.name.upper()}"
        if os.environ.get(name):
            values[field.name] = _parse(name, os.environ[name], field.type)
    return cls(**values)


def training_settings(config: Any, *without: str) -> dict[str, Any]:
    """The settings that a training depends on: all but :data:`PLACES` and those named in ``without``.

    Raises:
        ValueError: for a name in ``without`` that is no setting.
    """
    values = asdict(config)
    if unknown := set(without) - values.keys():
        raise ValueError(f"{', '.join(sorted(unknown))}: not among the settings {', '.join(values)}")
    return {name: value for name, value in values.items() if name not in (*PLACES, *without)}
