"""Checks of options shared by the calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, nearest

__all__ = ["check_keep", "check_loss", "names"]


def names(name: str, values: Any) -> tuple[str, ...]:
    """Return an option that takes one or several names as a tuple.

    Raises:
        ConfigError: If one of them is not a non-empty string.
    """
    items = []
    for item in [values] if isinstance(values, str) or not isinstance(values, Iterable) else values:
        if not isinstance(item, str) or not item:
            raise ConfigError(f"{name} takes one or several names, not {shorten(item)}")
        items.append(item)
    return tuple(items)


def check_keep(patterns: Iterable[str], layers: Sequence[str]) -> None:
    """Check that each pattern of ``keep`` matches a layer, unless no layer is known yet.

    Raises:
        ConfigError: If one matches none.
    """
    for pattern in patterns:
        if layers and not any(fnmatchcase(name, pattern) for name in layers):
            raise ConfigError(f"keep={shorten(pattern)} matches no layer: {nearest(pattern, layers)}")


def check_loss(name: str, loss: Any) -> None:
    """Check that a loss is not a class, which a framework would call like a function.

    Raises:
        ConfigError: If it is one.
    """
    if isinstance(loss, type):
        raise ConfigError(f"{name} is the class {loss.__name__}: pass an instance, {loss.__name__}()")
