"""Successive halving: many short trainings, the best third longer, the best of these to the end.

Jamieson and Talwalkar 2016 (1502.07943), with the rate of Hyperband (Li et al. 2018, 1603.06560): each rung trains
three times as long as the one before and keeps a third.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Bracket", "rungs", "width_within"]

RATE = 3
_RUNGS, _MOST, _LEAST_STEPS = 3, 9, 100

T = TypeVar("T")


def rungs(epochs: int, steps: int | None = None) -> list[int]:
    """Return the epochs of each rung, the last one all of them.

    Args:
        epochs: Epochs of a whole training, >= 1.
        steps: Its optimizer steps, if known: no rung has fewer than 100, too few to compare trainings.
    """
    least = 1 if not steps else math.ceil(_LEAST_STEPS * epochs / steps)
    return sorted({min(epochs, max(1, least, round(epochs / RATE**power))) for power in range(_RUNGS)})


def width_within(left: float, lengths: Sequence[int], *, resumable: bool = False) -> int:
    """Return the number of trainings on the first rung for which all rungs fit into the remaining work.

    Args:
        left: Remaining work, in full trainings.
        lengths: Epochs of each rung, the last one a full training.
        resumable: Whether a training continues where it ended on the rung before; else each starts again.

    Returns:
        At most 9; 0 if not even two fit.
    """
    for width in range(_MOST, 1, -1):
        work, runs, done = 0.0, width, 0
        for length in lengths:
            work += runs * (length - done) / lengths[-1]
            runs, done = math.ceil(runs / RATE), length if resumable else 0
        if work <= left:
            return width
    return 0


@dataclass
class Bracket(Generic[T]):
    """One run of successive halving. Deterministic.

    Attributes:
        entries: The competing trainings.
        lengths: Epochs of each rung.
        key: Maps a score to a sort key, higher being better.
    """

    entries: Sequence[T]
    lengths: Sequence[int]
    key: Callable[[float], float] = float
    _rung: int = field(init=False, default=0)
    _pending: list[T] = field(init=False)
    _scores: list[tuple[float, int, T]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._pending = list(self.entries)

    @property
    def pending(self) -> list[tuple[T, int]]:
        """Entries that are still to be trained on the current rung, and for how many epochs each."""
        return [(entry, self.lengths[self._rung]) for entry in self._pending]

    def next(self) -> tuple[T, int] | None:
        """Return the next entry to train and for how many epochs; None at the end, or if the rung has no score yet."""
        if not self._pending and self._scores and self._rung + 1 < len(self.lengths):
            self._pending = self._best(math.ceil(len(self._scores) / RATE))
            self._scores.clear()
            self._rung += 1
        return (self._pending.pop(0), self.lengths[self._rung]) if self._pending else None

    @property
    def ended(self) -> bool:
        """Whether no entry is left to train, unless all that reach the next rung have failed."""
        return not self._pending and not (self._scores and self._rung + 1 < len(self.lengths))

    @property
    def leading(self) -> list[T]:
        """Pending entries, and those that may reach the next rung: the best so far of the current one."""
        last = self._rung + 1 == len(self.lengths)
        promoted = [] if last else self._best(math.ceil((len(self._scores) + len(self._pending)) / RATE))
        return [*self._pending, *promoted]

    def add(self, entry: T, score: float) -> None:
        """Record the score of an entry; NaN is the worst."""
        value = -math.inf if math.isnan(score) else self.key(score)
        self._scores.append((value, len(self._scores), entry))

    def _best(self, number: int) -> list[T]:
        self._scores.sort(key=lambda entry: (-entry[0], entry[1]))
        return [entry for score, _, entry in self._scores[:number] if score > -math.inf]
