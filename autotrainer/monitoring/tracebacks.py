"""Takes frames of autotrainer that only pass a call on out of the tracebacks of the user's errors."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Any, TypeVar

__all__ = ["hide_frames", "passes_on"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_CODES: set[CodeType] = set()


def passes_on(function: _Function) -> _Function:
    """Mark a function that stands between the user's code and what it calls: `hide_frames` takes its frames out."""
    _CODES.add(function.__code__)
    return function


def hide_frames(error: BaseException | None) -> None:
    """Take the marked frames out of the traceback of an exception, and out of those of its causes and contexts.

    The exception itself stays as it is. The frame that calls this, and those outside of it, are added later.
    """
    visited: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in visited:
            continue
        visited.add(id(each))
        if _hides(each.__traceback__):
            # Not an assignment, which an exception that is a frozen dataclass refuses.
            BaseException.with_traceback(each, _without_marked(each.__traceback__))
        waiting += [each.__cause__, each.__context__]


def _hides(trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code in _CODES:
            return True
        trace = trace.tb_next
    return False


def _without_marked(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code in _CODES:
        trace = trace.tb_next
    entry = trace
    while entry is not None:
        following = entry.tb_next
        while following is not None and following.tb_frame.f_code in _CODES:
            following = following.tb_next
        entry.tb_next = following
        entry = following
    return trace
