"""The progress of a managed training, as one line on the terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress"]


class Progress(AbstractContextManager["Progress"]):
    """Shows which training runs, its epoch and its score; silent where standard error is no terminal.

    Args:
        wanted: Whether to show anything.
    """

    def __init__(self, wanted: bool) -> None:
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        if wanted and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[score]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)

    def begin(self, title: str, epochs: int) -> None:
        """Say that a training begins."""
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(title, total=epochs, score="")

    def tell(self, epoch: int, score: float) -> None:
        """Say that an epoch has ended, with the validation score."""
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
