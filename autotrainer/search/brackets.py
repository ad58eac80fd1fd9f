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
        steps: Its optimizer steps, if they are known: no rung has less than 100, which tell nothing yet.
    """
    least = 1 if not steps else math.ceil(_LEAST_STEPS * epochs / steps)
    return sorted({min(epochs, max(1, least, round(epochs / RATE**power))) for power in range(_RUNGS)})


def width_within(left: float, lengths: Sequence[int], *, resumable: bool = False) -> int:
    """Return how many trainings to begin with, so that all rungs fit into so much work.

    Args:
        left: Work that is left, in trainings.
        lengths: Epochs of each rung, the last one a whole training.
        resumable: Whether a training goes on where its shorter one has ended; else each begins at the start.

    Returns:
        The number, 9 at most; 0 where not even two fit.
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
        entries: What competes.
        lengths: Epochs of each rung.
        better: Says which of two scores is higher: a key for sorting, higher is better.
    """

    entries: Sequence[T]
    lengths: Sequence[int]
    better: Callable[[float], float] = float
    _rung: int = field(init=False, default=0)
    _waiting: list[T] = field(init=False)
    _scores: list[tuple[float, int, T]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._waiting = list(self.entries)

    @property
    def waiting(self) -> list[tuple[T, int]]:
        """What else is to be trained on the present rung, and for how many epochs each."""
        return [(entry, self.lengths[self._rung]) for entry in self._waiting]

    def next(self) -> tuple[T, int] | None:
        """Return what to train next and for how many epochs; None at the end, or while scores are awaited."""
        if not self._waiting and self._scores and self._rung + 1 < len(self.lengths):
            self._waiting = self._best(math.ceil(len(self._scores) / RATE))
            self._scores.clear()
            self._rung += 1
        return (self._waiting.pop(0), self.lengths[self._rung]) if self._waiting else None

    @property
    def leading(self) -> list[T]:
        """Those that are waiting, and those that may go on to the next rung: the best so far of the present one."""
        last = self._rung + 1 == len(self.lengths)
        told = [] if last else self._best(math.ceil((len(self._scores) + len(self._waiting)) / RATE))
        return [*self._waiting, *told]

    def tell(self, entry: T, score: float) -> None:
        """Take in the score of an entry; NaN is the worst."""
        value = -math.inf if math.isnan(score) else self.better(score)
        self._scores.append((value, len(self._scores), entry))

    def _best(self, number: int) -> list[T]:
        self._scores.sort(key=lambda entry: (-entry[0], entry[1]))
        return [entry for score, _, entry in self._scores[:number] if score > -math.inf]
