"""Checks of functions that users pass: they can be called as autotrainer calls them."""

from __future__ import annotations

import inspect
from typing import Any

from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError

__all__ = ["check_callable"]


def check_callable(name: str, function: Any, *parameters: str) -> None:
    """Check that a function takes as many positional arguments as it will get; nothing is called.

    Args:
        name: Name of the argument that it was passed as.
        function: The function, class or other callable.
        *parameters: What it will be called with.

    Raises:
        ConfigError: If it is not callable or has another signature. One that can't be read counts as valid.
    """
    call = f"{name}({', '.join(parameters)})"
    if not callable(function):
        raise ConfigError(f"{name} must be callable as {call}, not {shorten(function)}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of code that is not written in Python
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise ConfigError(f"{name} must be callable as {call}; this one has other arguments: {error}") from error
