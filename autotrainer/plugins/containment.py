"""Errors of plugins: told once with the distribution, and kept from the user's training."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from autotrainer.output import logger

__all__ = ["contain", "describe_error", "is_contained", "isolated", "origin", "register", "report_failure"]

_MAX_ERROR = 300
"""Characters of an error in a message."""

_origins: dict[type[Any], str] = {}
"""Distribution of each plugin."""
_reported: set[type[Any]] = set()
"""Plugins whose failure after loading has been logged."""


def register(plugin: type[Any], distribution: str) -> None:
    """Keep the distribution of a plugin, which its errors are told with."""
    _origins[plugin] = distribution


def origin(plugin: type[Any]) -> str:
    """Return the distribution of a plugin as the beginning of a message; empty for a built-in class."""
    return f"{_origins[plugin]}: " if plugin in _origins else ""


def is_contained(error: BaseException, plugin: type[Any]) -> bool:
    """Return whether an error of a plugin, or of a built-in class, must not reach the user.

    A plugin may not end the process: its `SystemExit` is an error like any other. Ctrl-C always goes through.
    """
    return isinstance(error, Exception) or (plugin in _origins and not isinstance(error, KeyboardInterrupt))


def describe_error(error: BaseException) -> str:
    """Return type and message of an error, without addresses: the same text for the same reason."""
    try:
        text = re.sub(r"\b0x[0-9a-fA-F]{4,}", "0x…", repr(error))
    except Exception:  # noqa: BLE001 - an error of somebody else may have no text
        text = type(error).__name__
    return text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]}…"


def report_failure(plugin: type[Any], error: BaseException, consequence: str = "is left out") -> None:
    """Log, once per class, that a plugin failed."""
    if plugin not in _reported:
        _reported.add(plugin)
        logger.warning("%s%s failed and %s: %s", origin(plugin), plugin.__name__, consequence, describe_error(error))


@contextmanager
def contain(plugin: type[Any]) -> Iterator[None]:
    """Suppress and log whatever a plugin raises; built-in classes raise as usual."""
    try:
        yield
    except BaseException as error:
        if plugin not in _origins or not is_contained(error, plugin):
            raise
        report_failure(plugin, error)


@contextmanager
def isolated(plugin: type[Any], make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Enter a context manager of a plugin, which can neither raise nor suppress the error of the block."""
    stack = ExitStack()
    with contain(plugin):
        stack.enter_context(make())
    try:
        yield
    finally:
        with contain(plugin):
            stack.close()
