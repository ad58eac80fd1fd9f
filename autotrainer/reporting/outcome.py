"""What a report holds of a managed training: its outcome, its attempts, its curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AttemptRow", "Outcome", "Points"]

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of `autotrainer.fit`: its repairs, score, cost in trainings, what went wrong, what remains.

    ``epochs`` are those that it was trained for where that was only to see whether it is worth more; None: to its end.
    ``verdict`` is what one of them, or the training as given (no repairs), told of a gain with another seed; or empty.
    ``start`` is the epoch of the training as given in which it began.
    """

    repairs: tuple[str, ...]
    score: float | None
    cost: float
    error: str | None
    remaining: tuple[str, ...]
    chosen: bool
    epochs: int | None = None
    start: int = 0
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `autotrainer.fit` came to; fields as in `autotrainer.Result`, with the patch in words."""

    status: str
    stopped_by: str
    metric: str
    score: float
    baseline_score: float
    test_score: float | None
    baseline_test_score: float | None
    cost: float
    patch: str | None
    changes: tuple[str, ...]
    attempts: tuple[AttemptRow, ...]
    left_out: Mapping[str, str]
    """Repairs that could not be used here, with the reason."""
    doubtful: bool = False
    epochs: int = 0
    """Planned epochs; 0 where they are not known."""
    mode: str = "max"
