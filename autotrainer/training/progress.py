"""The progress bar of managed trainings."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self, cast

from autotrainer.monitoring.guard import Guard
from autotrainer.output import SafeStream, logger

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress"]


class Progress(AbstractContextManager["Progress"]):
    """Shows the current training, its epoch and its score; silent if standard error is not a terminal.

    An error of the display switches it off; the training continues.

    Args:
        enabled: Whether to show anything.
    """

    def __init__(self, enabled: bool) -> None:
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        stream = SafeStream(sys.stderr)  # the bar also writes from a thread of its own
        if enabled and stream.isatty():
            with self._guard():
                from rich.console import Console
                from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

                columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[score]}"))
                console = Console(file=cast("IO[str]", stream))
                self._bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)

    def begin(self, title: str, epochs: int) -> None:
        """Show a new training of so many epochs."""
        with self._guard():
            if self._bar is None:
                return
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title, total=epochs, score="")

    def update(self, epoch: int, score: float) -> None:
        """Show the end of an epoch, counted from 0, with its validation score."""
        with self._guard():
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=epoch + 1, score=f"score {score:.4g}")

    def __enter__(self) -> Self:
        with self._guard():
            if self._bar is not None:
                self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard():
            if self._bar is not None:
                self._bar.stop()

    def _guard(self) -> Guard:
        return Guard(self._switch_off, "the progress bar")

    def _switch_off(self, part: str, error: BaseException) -> None:
        bar, self._bar = self._bar, None
        logger.info("%s failed and is switched off: %r", part, error)
        if bar is not None:
            bar.stop()  # else its thread would go on; the guard holds for this call, too
