"""Keeps what goes wrong in a part of the monitor from the user's training."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

__all__ = ["Guard"]


class Guard:
    """A context manager that lets no `Exception` out.

    Args:
        fail: Called with the part and the exception.
        part: What the block belongs to, in words.
    """

    def __init__(self, fail: Callable[[str, BaseException], None], part: str) -> None:
        self._fail, self._part = fail, part

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self._fail(self._part, error)
            return True
        return False
