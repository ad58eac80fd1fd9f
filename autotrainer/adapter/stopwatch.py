"""Measures the time that monitoring takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

__all__ = ["Stopwatch"]


class Stopwatch:
    """A context manager that adds up the time spent inside it; it may be nested.

    On a busy machine other processes take turns with this one, and the same work takes several times as long. So two
    times are kept: the wall time, which the user waits, and the time of the work itself: that of all threads of the
    process, but no more than the wall time. While an accelerator computes, the process may wait without working: set
    ``waits``, and the work counts as long as it takes.

    Args:
        clock: Wall clock in seconds.
        processor: Clock of the process' processor time in seconds.

    Attributes:
        work: Seconds of work.
        wall: Seconds by the wall clock.
        waits: Whether waiting counts as work.
    """

    __slots__ = ("_begin", "_clock", "_depth", "_processor", "waits", "wall", "work")

    def __init__(
        self, clock: Callable[[], float] = perf_counter, processor: Callable[[], float] = process_time
    ) -> None:
        self.work = self.wall = 0.0
        self.waits = False
        self._clock, self._processor = clock, processor
        self._depth = 0
        self._begin = 0.0, 0.0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._begin = self._clock(), self._processor()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            wall, processor = self._begin
            self.add(self._clock() - wall, self._processor() - processor)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of a block."""
        wall, processor = self._clock(), self._processor()
        try:
            yield
        finally:
            begin, work_begin = self._begin
            self._begin = begin + self._clock() - wall, work_begin + self._processor() - processor

    def add(self, wall: float, work: float | None = None) -> None:
        """Add seconds; negative ones, of a clock that was set back, count as none."""
        wall = max(0.0, wall)
        self.wall += wall
        self.work += wall if work is None or self.waits else min(wall, max(0.0, work))
