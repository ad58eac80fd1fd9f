"""The budget of `fit`: work in units of one training as given, or wall time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from numbers import Real

from autotrainer.errors import BudgetError

__all__ = ["Budget", "BudgetState", "Workload"]

_TRAINING_PASSES = 3  # forward, backward to the activations, backward to the weights
_DEFAULT_TRAININGS = 3
_DEFAULT_SECONDS = 60.0
_DEFAULT_SECONDS_BEYOND = 30 * 60.0


class Workload:
    """Counts the work of one training: samples × operations per sample × passes, in whole numbers.

    Args:
        operations: Operations of one forward pass of one sample, >= 1 after rounding.
    """

    def __init__(self, operations: float) -> None:
        self.operations = max(1, round(operations)) if math.isfinite(operations) else 1

    def of(self, samples: int, *, training: bool) -> int:
        """Return the work of a training step (three passes) or a forward pass on some samples."""
        return samples * self.operations * (_TRAINING_PASSES if training else 1)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget at one moment, for another process, whose clock may count from elsewhere.

    Attributes:
        limit: As given to `Budget`.
        unit: Work of one training as given, or None.
        spent: Work so far.
        seconds: Seconds so far.
        since_baseline: Seconds since the training as given has ended, or None.
    """

    limit: float | timedelta | None
    unit: int | None
    spent: int
    seconds: float
    since_baseline: float | None


class Budget:
    """What `fit` may still do.

    Work is counted in whole numbers, so that equal trainings cost exactly the same and a budget in trainings is
    never exceeded. A training as given has a size of 1; it is known from the start where the data are arrays, and
    after the first epoch otherwise.

    Args:
        limit: Number of trainings as given (> 0); wall time (> 0); or None for three trainings or one minute,
            whichever is more, but at most 30 minutes beyond the training as given.
        clock: Seconds.

    Raises:
        BudgetError: If the limit allows nothing.
    """

    def __init__(self, limit: float | timedelta | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        seconds = limit.total_seconds() if isinstance(limit, timedelta) else None
        number = seconds if seconds is not None else limit
        if number is not None and (isinstance(number, bool) or not isinstance(number, Real)):
            raise BudgetError(f"budget must be a number of trainings, a timedelta or None, not {limit!r}")
        if number is not None and not number > 0:
            raise BudgetError(f"budget={limit!r} allows no work: 1 is one training as given, 3 leaves room for repairs")
        self._limit = limit
        self._trainings = None if seconds is not None or limit is None else float(number or 0)
        self._seconds = seconds
        self._clock = clock
        self._start = clock()
        self._baseline_end: float | None = None
        self._unit: int | None = None
        self._spent = 0

    @classmethod
    def of(cls, state: BudgetState) -> Budget:
        """Return a budget that goes on from a state."""
        budget = cls(state.limit)
        budget._unit, budget._spent = state.unit, state.spent
        if state.since_baseline is not None:
            budget._baseline_end = budget._start - state.since_baseline + state.seconds
        budget.advance(state.seconds)
        return budget

    @property
    def state(self) -> BudgetState:
        """What another process needs to go on from here."""
        ended = None if self._baseline_end is None else self._clock() - self._baseline_end
        return BudgetState(self._limit, self._unit, self._spent, self.seconds, ended)

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._clock() - self._start

    def advance(self, seconds: float) -> None:
        """Say that so many seconds have passed in all, those of an earlier process included; never less than have."""
        more = max(0.0, seconds - self.seconds)
        self._start -= more
        if self._baseline_end is not None:
            self._baseline_end -= more

    @property
    def unit(self) -> int | None:
        """Work of one training as given, or None while that is unknown."""
        return self._unit

    def measure(self, unit: int) -> None:
        """Say how much work one training as given is."""
        self._unit = max(1, unit)

    def end_baseline(self) -> None:
        """Say that the training as given has ended; what it did is its size if that is still unknown."""
        self._baseline_end = self._clock()
        if self._unit is None:
            self.measure(self._spent)

    def allows(self, work: int) -> bool:
        """Say whether some more work is within the budget."""
        if self._seconds is not None:
            return self._clock() - self._start < self._seconds
        if self._trainings is not None:
            return self._within(work, self._trainings)
        if self._baseline_end is None:
            return True
        now = self._clock()
        more = self._within(work, _DEFAULT_TRAININGS) or now - self._start < _DEFAULT_SECONDS
        return more and now - self._baseline_end < _DEFAULT_SECONDS_BEYOND

    def spend(self, work: int) -> None:
        """Account for work."""
        self._spent += work

    @property
    def timed(self) -> bool:
        """Whether wall time is the limit: an evaluation that is due is then still made."""
        return self._trainings is None

    @property
    def spent(self) -> int:
        """Work so far, in operations."""
        return self._spent

    @property
    def left(self) -> float:
        """Work that is left, in trainings as given; infinite where wall time decides."""
        if self._trainings is None or self._unit is None:
            return math.inf
        return self._trainings - self._spent / self._unit

    def in_trainings(self, work: int) -> float:
        """Return work in units of one training as given."""
        return work / self._unit if self._unit else float("nan")

    def _within(self, work: int, trainings: float) -> bool:
        if self._unit is None or math.isinf(trainings):
            return True
        return self._spent + work <= Fraction(trainings) * self._unit
