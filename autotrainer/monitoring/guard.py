"""Keeps exceptions of the monitor away from the user's training, and failures of statistics apart."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from autotrainer.output import logger

__all__ = ["Guard", "StatisticGuard", "leave_out"]

T = TypeVar("T")


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


class StatisticGuard:
    """Measures statistics so that one that raises is reported, and measured no more, while all others go on.

    Args:
        report: Called with the name of a statistic, one of `STATISTICS`, and the exception.
    """

    def __init__(self, report: Callable[[str, Exception], None]) -> None:
        self._report = report
        self._failed: set[tuple[str, int | None]] = set()

    def active(self, statistic: str, row: int | None = None) -> bool:
        """Return whether a statistic has not failed: nowhere as a whole, nor for this row of the layer table."""
        return (statistic, row) not in self._failed and (statistic, None) not in self._failed

    def measure(
        self, statistic: str, function: Callable[..., T], *args: object, row: int | None = None, **kwargs: object
    ) -> T | None:
        """Call a function that measures a statistic.

        Args:
            statistic: The statistic, one of `STATISTICS`.
            function: The function.
            *args: Its arguments.
            row: Row of the layer table; a failure there leaves the statistic of other layers alone. None: the statistic
                as a whole.
            **kwargs: Its keyword arguments.

        Returns:
            What it returns; None if it raises, or has raised before.
        """
        if self._failed and not self.active(statistic, row):
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self.fail(statistic, error, row)
            return None

    def fail(self, statistic: str, error: Exception, row: int | None = None) -> None:
        """Switch a statistic off, and report it."""
        self._failed.add((statistic, row))
        self._report(statistic, error)


def leave_out(statistic: str, error: Exception) -> None:
    """Log that a statistic is left out where no monitor reports it: in `autotrainer.check`."""
    logger.warning("the statistic %r could not be measured, everything else is: %r", statistic, error)
