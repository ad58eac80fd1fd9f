"""Keeps nothing of the user's alive: callbacks that don't, and monitors that are closed when nobody else does."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakMethod, WeakSet

__all__ = ["close_at_exit", "weak_method"]


class _Abandonable(Protocol):
    def abandon(self, *, finished: bool) -> None:
        """Close quietly, as nobody does it."""


_open: WeakSet[Any] = WeakSet()


def weak_method(method: Callable[..., Any], default: Any = None) -> Callable[..., Any]:
    """Return a function that calls a bound method as long as its object exists.

    An object that hands its own methods to its parts would otherwise wait, with all it refers to, for the garbage
    collector.

    Args:
        method: The bound method.
        default: What the function returns once the object is gone.
    """
    reference = WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = reference()
        return default if bound is None else bound(*args, **kwargs)

    return call


def close_at_exit(monitor: _Abandonable) -> None:
    """Have a monitor abandoned at the end of the process if it is still there, so that its log is complete."""
    _open.add(monitor)


@atexit.register
def _abandon_all() -> None:
    for monitor in list(_open):
        with suppress(Exception):
            monitor.abandon(finished=not hasattr(sys, "last_value"))  # set where an exception has ended the process
