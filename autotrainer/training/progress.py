"""The progress of managed trainings: a bar in a terminal, one output in a notebook, calls of a function, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, Self, cast

from autotrainer.html_fragment import card, line, meter
from autotrainer.monitoring.guard import Guard
from autotrainer.output import SafeStream, logger
from autotrainer.reporting.notebook.cell_output import CellOutput
from autotrainer.reporting.text import count, number

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress", "ProgressFunction"]

ProgressFunction = Callable[[str, int, int, float], object]
"""Is called at the end of each epoch with the title of the training, the number of complete and of planned epochs, and
the validation score."""

_MOST_ROWS = 8
"""Trainings that a notebook shows: the original one and the latest."""


class _Display(Protocol):
    def begin(self, title: str, epochs: int) -> None: ...
    def update(self, epoch: int, score: float) -> None: ...
    def stop(self) -> None: ...


class Progress(AbstractContextManager["Progress"]):
    """Shows the current training, its epoch and its score; silent in what is neither a notebook nor a terminal.

    An error of the display switches it off; the training continues.

    Args:
        enabled: Whether to show anything; or a function that is called instead, wherever standard error goes.
        bar: Whether a terminal gets a bar: not where the user's own loop prints, too.
    """

    def __init__(self, enabled: bool | ProgressFunction, *, bar: bool = True) -> None:
        self._display: _Display | None = _Calls(enabled) if callable(enabled) else None
        if enabled is True:
            with self._guard():
                self._display = _display(bar=bar)

    def begin(self, title: str, epochs: int) -> None:
        """Show a new training of so many epochs."""
        with self._guard():
            if self._display is not None:
                self._display.begin(title, epochs)

    def update(self, epoch: int, score: float) -> None:
        """Show the end of an epoch, counted from 0, with its validation score."""
        with self._guard():
            if self._display is not None:
                self._display.update(epoch, score)

    def stop(self) -> None:
        """Show the end of the search."""
        with self._guard():
            if self._display is not None:
                self._display.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __enter__(self) -> Self:
        return self

    def _guard(self) -> Guard:
        return Guard(self._switch_off, "the progress display")

    def _switch_off(self, part: str, error: BaseException) -> None:
        display, self._display = self._display, None
        logger.info("%s failed and is switched off: %r", part, error)
        if display is not None:
            display.stop()  # else the thread of a bar would go on; the guard holds for this call, too


def _display(*, bar: bool) -> _Display | None:
    output = CellOutput.of_running_cell()
    if output is not None:
        return _CellDisplay(output)
    if not bar:
        return None
    stream = SafeStream(sys.stderr)  # the bar also writes from a thread of its own
    return _Bar(stream) if stream.isatty() else None


class _Calls:
    """A function that is called at the end of each epoch."""

    def __init__(self, function: ProgressFunction) -> None:
        self._function, self._training = function, ("", 0)

    def begin(self, title: str, epochs: int) -> None:
        self._training = (title, epochs)

    def update(self, epoch: int, score: float) -> None:
        title, epochs = self._training
        self._function(title, epoch + 1, epochs, score)

    def stop(self) -> None:
        """Do nothing: the caller knows when the search ends."""


class _Bar:
    """The bar in a terminal; it is gone when the search ends."""

    def __init__(self, stream: SafeStream) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[score]}"))
        console = Console(file=cast("IO[str]", stream))
        self._bar: rich.progress.Progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._task: rich.progress.TaskID | None = None

    def begin(self, title: str, epochs: int) -> None:
        if self._task is None:
            self._bar.start()
        else:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(title, total=epochs, score="")

    def update(self, epoch: int, score: float) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=epoch + 1, score=f"score {score:.4g}")

    def stop(self) -> None:
        self._bar.stop()


class _CellDisplay:
    """The trainings so far in one output of a notebook, each with its epochs and score; it stays."""

    def __init__(self, output: CellOutput) -> None:
        self._output = output
        self._rows: list[tuple[str, int, int, float | None]] = []

    def begin(self, title: str, epochs: int) -> None:
        self._rows.append((title, 0, epochs, None))
        self._output.show(self._content)

    def update(self, epoch: int, score: float) -> None:
        if self._rows:
            title, _, epochs, _ = self._rows[-1]
            self._rows[-1] = title, epoch + 1, epochs, score
            self._output.show(self._content)

    def stop(self) -> None:
        if self._rows:
            self._output.show(lambda: self._content(ended=True), at_once=True)

    def _content(self, *, ended: bool = False) -> tuple[str, str]:
        lines = [
            f"{title}: epoch {done} of {epochs}" + ("" if score is None else f", score {number(score)}")
            for title, done, epochs, score in self._rows
        ]
        left_out = len(lines) - _MOST_ROWS
        parts = [line(each) for each in (lines if left_out <= 0 else [lines[0], *lines[1 - _MOST_ROWS :]])]
        if left_out > 0:
            parts.insert(1, line(f"{count(left_out, 'training')} in between", quiet=True))
        if not ended:
            parts.append(meter(self._rows[-1][1] / self._rows[-1][2]))
        return card(parts), f"autotrainer, {'ended' if ended else lines[-1]}"
