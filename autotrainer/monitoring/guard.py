"""Keeps exceptions of the monitor away from the user's training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

__all__ = ["Guard"]


class Guard:
    """A context manager that suppresses every `Exception` and reports it.

    Args:
        fail: Called with the part and the exception.
        part: Name of the part of the monitor that the block belongs to, for messages.
    """

    def __init__(self, fail: Callable[[str, BaseException], None], part: str) -> None:
        self._fail, self._part = fail, part

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        with suppress(Exception):
            self._fail(self._part, error)
        return True
