"""Progress of a run: a bar with the remaining time in a terminal, else one plain line per row."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["Progress", "duration", "progress"]


class Progress(Protocol):
    """Receives finished rows."""

    def done(self, row: Mapping[str, Any]) -> None:
        """Record that a row is finished."""


def duration(seconds: float) -> str:
    """Return a time in readable units: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _name(row: Mapping[str, Any]) -> str:
    task = row["task"]
    parts = [str(task[key]) for key in ("framework", "case", "model", "setting") if key in task]
    return " ".join([*parts, f"seed {task['seed']}"] if "seed" in task else parts)


def _line(row: Mapping[str, Any]) -> str:
    return _name(row) + (f": {row['error']}" if "error" in row else "")


class _Lines:
    def __init__(self, total: int) -> None:
        self._total, self._done, self._started = total, 0, time.monotonic()

    def done(self, row: Mapping[str, Any]) -> None:
        self._done += 1
        remaining = (time.monotonic() - self._started) / self._done * (self._total - self._done)
        print(
            f"[{self._done}/{self._total}] {_line(row)} · about {duration(remaining)} left", file=sys.stderr, flush=True
        )


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def done(self, row: Mapping[str, Any]) -> None:
        if "error" in row:
            self._bar.console.print(_line(row), markup=False, highlight=False)
        self._bar.update(self._task, advance=1, description=_name(row))


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """Show the progress of ``total`` rows on standard error while the block runs."""
    if not total or not sys.stderr.isatty():
        yield _Lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Rich

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        # Rows take minutes: within rich's default window of 30 s, often no row finishes.
        TimeRemainingColumn(compact=True),
    )
    with Rich(*columns, console=Console(stderr=True), speed_estimate_period=24 * 3600) as bar:
        yield _Bar(bar, bar.add_task("", total=total))
