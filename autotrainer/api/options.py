"""Checks of options that `fit` and `Loop` share."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from autotrainer.errors import ConfigError

__all__ = ["check_bool", "names", "whole"]


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number.

    Raises:
        ConfigError: If it is none, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, not {value!r}")
    return number


def names(name: str, values: Any) -> tuple[str, ...]:
    """Return one name or several as a tuple.

    Raises:
        ConfigError: If one is no name.
    """
    given = (values,) if isinstance(values, str) else tuple(values) if isinstance(values, Iterable) else (values,)
    for value in given:
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{name} takes one name or several, not {value!r}")
    return given


def check_bool(**options: Any) -> None:
    """Check that options are True or False.

    Raises:
        ConfigError: If one is not.
    """
    for name, value in options.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be True or False, not {value!r}")
