"""Decides where the epochs of a user's own loop end, which no call shows.

A dataset that starts again is the strongest sign, else an evaluation that is followed by further steps counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

__all__ = ["LoopEpochs"]

_ROUTINE = 5
"""Evaluations that follow each other at a distance of one step from which they are part of the steps."""


class LoopEpochs:
    """Detects the ends of epochs of one training.

    Args:
        end: Called at the end of an epoch, with the number of steps done by then.
    """

    def __init__(self, end: Callable[[int], None]) -> None:
        self._end = end
        self._started: tuple[ref[Any], int] | None = None  # latest start of a dataset, and the steps done before it
        self._feeding: ref[Any] | None = None  # the dataset that the steps read
        self._evaluated: int | None = None  # steps done before the latest evaluation, if it may be the end of an epoch
        self._latest, self._in_a_row = -2, 0
        self._epoch_start = 0
        self.step = 0
        """Steps done."""

    def dataset_started(self, dataset: Any) -> None:
        """The loop begins to read a dataset."""
        if self._feeding is not None and self._feeding() is dataset and self.step > self._epoch_start:
            self._end_at(self.step)
        self._started = ref(dataset), self.step

    def evaluated(self) -> None:
        """The model is called for an evaluation, which reads the dataset that has started last."""
        self._started = None
        if self.step == self._latest or self._in_a_row >= _ROUTINE:
            return
        self._in_a_row = self._in_a_row + 1 if self.step == self._latest + 1 else 0
        self._latest = self.step
        if self._in_a_row < _ROUTINE and self.step > self._epoch_start:
            self._evaluated = self.step

    def stepped(self, steps: int = 1) -> None:
        """Steps have been taken."""
        if self._started is not None:
            (dataset, start), self._started = self._started, None
            previous, current = self._feeding, self._feeding() if self._feeding is not None else None
            if current is None:
                self._feeding = dataset
                if previous is not None and start > self._epoch_start:
                    self._end_at(start)  # each epoch has a dataset of its own
        if self._evaluated is not None:
            at, self._evaluated = self._evaluated, None
            if self._feeding is None and at > self._epoch_start:
                self._end_at(at)
        self.step += steps

    def restart(self, step: int) -> None:
        """Count the present epoch from this number of steps on: others have been taken in another way."""
        self.step = self._epoch_start = step
        self._evaluated = None

    def called(self) -> None:
        """A function has taken several steps: with data of its own, they are an epoch."""
        if self._feeding is None and self._started is None and self.step > self._epoch_start:
            self._end_at(self.step)

    def finish(self, *, interrupted: bool) -> None:
        """The training has ended."""
        if self.step <= self._epoch_start:
            return
        if self._feeding is not None and not interrupted:
            self._end_at(self.step)
        elif self._feeding is None and self._evaluated is not None:
            self._end_at(self._evaluated)

    def _end_at(self, step: int) -> None:
        self._epoch_start = step
        self._end(step)
