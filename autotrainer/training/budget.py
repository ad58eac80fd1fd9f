"""The budget of `fit`: work in units of one baseline training, or wall time."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from numbers import Real
from typing import Any

from autotrainer.edits.base import shorten
from autotrainer.errors import BudgetError

__all__ = ["Budget", "BudgetState", "Workload"]

_TRAINING_PASSES = 3  # forward, backward to the activations, backward to the weights
_DEFAULT_TRAININGS = 3
_DEFAULT_SECONDS = 60.0
_DEFAULT_SECONDS_BEYOND = 30 * 60.0


class Workload:
    """Counts the work of one training in operations: samples × operations per sample × passes, an integer.

    Args:
        operations: Operations of one forward pass of one sample; rounded, and at least 1.
    """

    def __init__(self, operations: float) -> None:
        self.operations = max(1, round(operations)) if math.isfinite(operations) else 1

    def of(self, samples: int, *, training: bool) -> int:
        """Return the operations of a training step (three passes) or of a forward pass on so many samples."""
        return samples * self.operations * (_TRAINING_PASSES if training else 1)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A snapshot of a budget for another process, whose clock may have another origin.

    Attributes:
        limit: The `limit` of `Budget`.
        unit: Operations of one baseline training, or None while unknown.
        spent: Operations so far.
        seconds: Seconds so far.
        since_baseline: Seconds since the end of the baseline training, or None while it runs.
    """

    limit: float | timedelta | None
    unit: int | None
    spent: int
    seconds: float
    since_baseline: float | None


class Budget:
    """Accounts for the work that `fit` has done, and decides what it may still do.

    Work is counted in integers, so equal trainings cost exactly the same and a budget in trainings is never exceeded.
    The unit is one baseline training. Its size is known from the start for array data, and after the first epoch
    otherwise.

    Args:
        limit: Number of baseline trainings (> 0); wall time (> 0); or None for three trainings or one minute,
            whichever is more, but at most 30 minutes beyond the baseline training.
        clock: Returns seconds from a fixed origin.

    Raises:
        BudgetError: If the limit is not positive, or not of one of these types.
    """

    def __init__(self, limit: float | timedelta | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        seconds = limit.total_seconds() if isinstance(limit, timedelta) else None
        number: Any = seconds if seconds is not None else limit
        is_number = isinstance(number, Real) and not isinstance(number, bool)
        if number is not None and (not is_number or sys.maxsize < number < math.inf):
            raise BudgetError(f"budget must be a number of trainings, a timedelta or None, not {shorten(limit)}")
        if number is not None and not number > 0:
            raise BudgetError(
                f"budget={shorten(limit)} allows no work: 1 is one baseline training, 3 leaves room for repairs"
            )
        self._limit = limit
        self._trainings = None if seconds is not None or limit is None else float(number or 0)
        self._seconds = seconds
        self._clock = clock
        self._start = clock()
        self._baseline_end: float | None = None
        self._unit: int | None = None
        self._spent = self._held = 0

    @classmethod
    def of(cls, state: BudgetState) -> Budget:
        """Return a budget that continues from a snapshot."""
        budget = cls(state.limit)
        budget._unit, budget._spent = state.unit, state.spent
        if state.since_baseline is not None:
            budget._baseline_end = budget._start - state.since_baseline + state.seconds
        budget.advance(state.seconds)
        return budget

    @property
    def state(self) -> BudgetState:
        """A snapshot from which another process continues: see `Budget.of`."""
        ended = None if self._baseline_end is None else self._clock() - self._baseline_end
        return BudgetState(self._limit, self._unit, self._spent, self.seconds, ended)

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._clock() - self._start

    def advance(self, seconds: float) -> None:
        """Set the seconds so far, including those of an earlier process; a smaller number changes nothing."""
        missing = max(0.0, seconds - self.seconds)
        self._start -= missing
        if self._baseline_end is not None:
            self._baseline_end -= missing

    @property
    def unit(self) -> int | None:
        """Operations of one baseline training, or None while unknown."""
        return self._unit

    def measure(self, unit: int) -> None:
        """Set the operations of one baseline training; at least 1."""
        self._unit = max(1, unit)

    def end_baseline(self) -> None:
        """Mark the end of the baseline training; if its size is still unknown, it is the work so far."""
        self._baseline_end = self._clock()
        if self._unit is None:
            self.measure(self._spent)

    def allows(self, work: int) -> bool:
        """Return whether the budget allows so many more operations."""
        if self._seconds is not None:
            return self._clock() - self._start < self._seconds
        if self._trainings is not None:
            return self._within(work, self._trainings)
        if self._baseline_end is None:
            return True
        now = self._clock()
        within = self._within(work, _DEFAULT_TRAININGS) or now - self._start < _DEFAULT_SECONDS
        return within and now - self._baseline_end < _DEFAULT_SECONDS_BEYOND

    def covers(self, trainings: float) -> bool:
        """Return whether so many more trainings of the baseline's size will be allowed, at the speed so far."""
        if self._limit is None and self._unit is not None:
            return self.seconds / max(1, self._spent) * self._unit < _DEFAULT_SECONDS_BEYOND
        return self._seconds is None and self.left >= trainings

    @contextmanager
    def holding(self, trainings: float) -> Iterator[None]:
        """Hold back so many trainings of the baseline's size for later."""
        self._held = round(trainings * (self._unit or 0))
        try:
            yield
        finally:
            self._held = 0

    def spend(self, work: int) -> None:
        """Account for so many operations."""
        self._spent += work

    @property
    def timed(self) -> bool:
        """Whether wall time is the limit: an evaluation that is due is then always allowed."""
        return self._trainings is None

    @property
    def spent(self) -> int:
        """Operations so far."""
        return self._spent

    @property
    def left(self) -> float:
        """Remaining work in baseline trainings; infinite if wall time is the limit."""
        if self._trainings is None or self._unit is None:
            return math.inf
        return self._trainings - self._spent / self._unit

    def in_trainings(self, work: int) -> float:
        """Return so many operations in units of one baseline training; NaN while its size is unknown."""
        return work / self._unit if self._unit else float("nan")

    def _within(self, work: int, trainings: float) -> bool:
        if self._unit is None or math.isinf(trainings):
            return True
        return self._spent + self._held + work <= Fraction(trainings) * self._unit
