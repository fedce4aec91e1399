"""Parameters of a notebook: frozen dataclasses that refuse values that cannot be meant."""

import difflib
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

T = TypeVar("T", bound=type)
P = TypeVar("P")


def _check(self: Any, choices: Mapping[str, Collection[str]], shares: Collection[str], from_zero: Collection[str]):
    for field in fields(self):
        name, value = f"{type(self).__name__}.{field.name}", getattr(self, field.name)
        wanted = (int, float) if field.type is float else field.type  # 1 is a fine float, True is no number
        if not isinstance(value, wanted) or (isinstance(value, bool) and field.type is not bool):
            raise TypeError(f"{name} is {value!r}, a {type(value).__name__}: expected {field.type.__name__}")
        if field.name in choices and value not in choices[field.name]:
            raise ValueError(f"{name} is {value!r}: expected one of {', '.join(choices[field.name])}")
        if field.type not in (int, float):
            continue
        if field.name in shares:
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}: expected a share, from 0 to below 1")
        elif field.name in from_zero:
            if not value >= 0:
                raise ValueError(f"{name} is {value}: expected 0 or more")
        elif not value > 0:
            raise ValueError(f"{name} is {value}: expected more than 0")


def parameters(
    *,
    choices: Mapping[str, Collection[str]] | None = None,
    shares: Collection[str] = (),
    from_zero: Collection[str] = (),
) -> Callable[[T], T]:
    """Make a class a frozen dataclass whose values are checked, also those given to ``dataclasses.replace``.

    Args:
        choices: for a text, the values it may have.
        shares: numbers from 0 to below 1.
        from_zero: numbers of 0 or more; all others must be above 0.

    Raises:
        TypeError: later, for a name that is no parameter (a similar one is named) or a value of another type.
        ValueError: later, for a value out of range; it names the parameter, the value and what was expected.
    """

    def decorate(cls: T) -> T:
        cls.__post_init__ = lambda self: _check(self, choices or {}, shares, from_zero)
        made = dataclass(frozen=True)(cls)
        names, plain = [field.name for field in fields(made)], made.__init__

        @functools.wraps(plain)
        def __init__(self: Any, *values: Any, **named: Any) -> None:
            for name in named.keys() - set(names):
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
                raise TypeError(f"{cls.__name__} has no parameter {name!r}: {hint}")
            plain(self, *values, **named)

        made.__init__ = __init__
        return made

    return decorate


def override(values: P, **changes: Any) -> P:
    """The parameters with the changes that are not 0 or empty, which stand for "as it is"; checked like all values."""
    return replace(values, **{name: value for name, value in changes.items() if value})
