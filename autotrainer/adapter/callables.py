"""Functions that users pass: whether they can be called as autotrainer calls them, and whether they are constant."""

from __future__ import annotations

import dis
import inspect
from functools import partial
from types import FunctionType
from typing import Any

from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError

__all__ = ["check_callable", "ignores_arguments"]

_LOADS = frozenset(
    {"RESUME", "NOP", "CACHE", "PRECALL", "EXTENDED_ARG", "COPY_FREE_VARS", "RETURN_VALUE", "RETURN_CONST"}
    | {"LOAD_CONST", "LOAD_SMALL_INT", "LOAD_GLOBAL", "LOAD_DEREF"}
)
"""Instructions of a function that returns a constant or a variable of its surroundings, whatever its arguments are."""
_LOCAL = frozenset({"LOAD_FAST", "LOAD_FAST_BORROW"})
"""Instructions that load an argument."""


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


def ignores_arguments(function: Any, *, returned: int | None = None) -> bool:
    """Return whether a function always returns the same, by its code: it is not called. False if that is unknown.

    Args:
        function: The function.
        returned: Position of an argument that it may return as it is; None for none.
    """
    while isinstance(function, partial):
        function, returned = function.func, None if function.args or function.keywords else returned
    if not isinstance(function, FunctionType):
        return False
    code = function.__code__
    name = code.co_varnames[returned] if returned is not None and returned < code.co_argcount else None
    return all(
        instruction.opname in _LOADS or (instruction.opname in _LOCAL and instruction.argval == name)
        for instruction in dis.get_instructions(function)
    )
