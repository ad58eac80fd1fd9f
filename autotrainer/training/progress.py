"""The progress bar of managed trainings."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress"]


class Progress(AbstractContextManager["Progress"]):
    """Shows the current training, its epoch and its score; silent if standard error is not a terminal.

    Args:
        enabled: Whether to show anything.
    """

    def __init__(self, enabled: bool) -> None:
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        if enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[score]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)

    def begin(self, title: str, epochs: int) -> None:
        """Show a new training of so many epochs."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(title, total=epochs, score="")

    def update(self, epoch: int, score: float) -> None:
        """Show the end of an epoch, counted from 0, with its validation score."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=epoch + 1, score=f"score {score:.4g}")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
