"""Keeps nothing of the user's alive: callbacks that don't, and monitors that end when their process does."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakMethod, WeakSet

__all__ = ["end_with_process", "forget", "weak_method"]


class _Abandonable(Protocol):
    def abandon(self, *, finished: bool) -> None:
        """Close quietly, as nobody does it."""

    def leave(self) -> None:
        """Become inert, in a forked child process."""


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


def end_with_process(monitor: _Abandonable, *, first: bool = False) -> None:
    """Have a monitor abandoned at the end of the process, so that its log is complete, and inert in forked children.

    Args:
        monitor: The monitor; no reference to it is kept.
        first: Whether monitors end before everything that has asked for the end of the process by now: a tracker closes
            its run there, too.
    """
    _open.add(monitor)
    if first:
        atexit.unregister(_abandon_all)
        atexit.register(_abandon_all)


def forget(monitor: _Abandonable) -> None:
    """Do neither: it is closed."""
    _open.discard(monitor)


@atexit.register
def _abandon_all() -> None:
    for monitor in list(_open):
        with suppress(Exception):
            monitor.abandon(finished=not hasattr(sys, "last_value"))  # set where an exception has ended the process


def _leave_all() -> None:
    for monitor in list(_open):
        with suppress(Exception):
            monitor.leave()
    _open.clear()


# A forked child inherits hooks, history and log of a training that goes on in its parent. Its monitors are inert: what
# the child trains is another training, and two processes can't append to one log. It can watch the model itself, with a
# log of its own. Workers of a data loader, which train nothing, pay for this call alone.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
