"""The progress of managed trainings: a bar on a terminal, or calls of a function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self, cast

from autotrainer.monitoring.guard import Guard
from autotrainer.output import SafeStream, logger

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress", "ProgressFunction"]

ProgressFunction = Callable[[str, int, int, float], object]
"""Is called at the end of each epoch with the title of the training, the number of complete and of planned epochs, and
the validation score."""


class Progress(AbstractContextManager["Progress"]):
    """Shows the current training, its epoch and its score; silent if standard error is not a terminal.

    An error of the display switches it off; the training continues.

    Args:
        enabled: Whether to show anything; or a function that is called instead, wherever standard error goes.
    """

    def __init__(self, enabled: bool | ProgressFunction) -> None:
        self._function = enabled if callable(enabled) else None
        self._training = ("", 0)
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        stream = SafeStream(sys.stderr)  # the bar also writes from a thread of its own
        if enabled is True and stream.isatty():
            with self._guard():
                from rich.console import Console
                from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

                columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[score]}"))
                console = Console(file=cast("IO[str]", stream))
                self._bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)

    def begin(self, title: str, epochs: int) -> None:
        """Show a new training of so many epochs."""
        self._training = (title, epochs)
        with self._guard():
            if self._bar is None:
                return
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title, total=epochs, score="")

    def update(self, epoch: int, score: float) -> None:
        """Show the end of an epoch, counted from 0, with its validation score."""
        with self._guard():
            if self._function is not None:
                title, epochs = self._training
                self._function(title, epoch + 1, epochs, score)
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
        return Guard(self._switch_off, "the display of the progress")

    def _switch_off(self, part: str, error: BaseException) -> None:
        bar, self._bar, self._function = self._bar, None, None
        logger.info("%s failed and is switched off: %r", part, error)
        if bar is not None:
            bar.stop()  # else its thread would go on; the guard holds for this call, too
