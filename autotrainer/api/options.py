"""Checks of options shared by `fit` and `Loop`."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from autotrainer.errors import ConfigError

__all__ = ["check_bool", "integer", "names"]


def integer(name: str, value: Any, minimum: int) -> int:
    """Return an option as an integer.

    Raises:
        ConfigError: If it is not an integer, or below ``minimum``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = minimum - 1
    if isinstance(value, bool) or number < minimum:
        raise ConfigError(f"{name} must be a whole number >= {minimum}, not {value!r}")
    return number


def names(name: str, values: Any) -> tuple[str, ...]:
    """Return an option that takes one or several names as a tuple.

    Raises:
        ConfigError: If one of them is not a non-empty string.
    """
    items = (values,) if isinstance(values, str) else tuple(values) if isinstance(values, Iterable) else (values,)
    for item in items:
        if not isinstance(item, str) or not item:
            raise ConfigError(f"{name} takes one or several names, not {item!r}")
    return items


def check_bool(**options: Any) -> None:
    """Check that options are True or False.

    Raises:
        ConfigError: If one of them is not.
    """
    for name, value in options.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be True or False, not {value!r}")
