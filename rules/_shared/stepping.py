"""How often the learning-rate scheduler is stepped, and how that fits the length it is made for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.outcome import Outcome

__all__ = ["STEPPING_NEEDS", "Stepping"]

STEPPING_NEEDS = frozenset({"scheduler_steps", "final_scheduler_steps"})
"""What a `Stepping` is made from, besides the outcome."""

_MIN_SAMPLES, _MIN_STEPS = 3, 20
"""Fewest samples and steps between the first and the last of them that show how often a scheduler is stepped."""

_MATCH = 0.2
"""Relative difference up to which the length of a schedule is that of the training, in epochs or steps."""


@dataclass(frozen=True, slots=True)
class Stepping:
    """How often the scheduler is stepped.

    Attributes:
        name: Its class.
        per_step: Its steps for each step of the optimizer.
        taken: Its steps since the first sample.
        length: Steps that it is made for; NaN if unknown.
        planned: Steps of the optimizer in the whole training; NaN if unknown.
        epochs: Epochs of the whole training; NaN if unknown.
    """

    name: str
    per_step: float
    taken: float
    length: float
    planned: float
    epochs: float

    @classmethod
    def of(cls, history: RunHistory, context: TaskContext, result: Outcome) -> Stepping | None:
        """Return it for a run; None if it is unknown."""
        counts = history.scalar("scheduler_steps")
        known = np.isfinite(counts)
        steps, counts = history.steps[known], counts[known]
        if len(counts) < _MIN_SAMPLES or steps[-1] - steps[0] < _MIN_STEPS or (np.diff(counts) < 0).any():
            return None
        optimizer = context.optimizer
        last, end = float(counts[-1]), float(steps[-1])
        final = context.asked.get("final_scheduler_steps", math.nan)
        if history.finished and final >= last:
            last, end = final, float(history.step + 1)
        epochs = float(context.planned_epochs or (history.finished and history.epoch) or math.nan)
        return cls(
            optimizer.schedule or "schedule",
            (last - float(counts[0])) / (end - float(steps[0])),
            last - float(counts[0]),
            float(optimizer.schedule_length or math.nan),
            result.planned,
            epochs,
        )

    @property
    def times(self) -> int:
        """Its steps for each step of the optimizer, where these are whole and several; else 1."""
        nearest = round(self.per_step) if math.isfinite(self.per_step) else 1
        return nearest if nearest >= 2 and abs(self.per_step - nearest) <= 0.05 * nearest else 1

    @property
    def coverage(self) -> float:
        """Its steps in the whole training ÷ those that it is made for; NaN if unknown."""
        return self.per_step * self.planned / self.length

    @property
    def made_for_epochs(self) -> bool:
        """Whether its length is the number of epochs, which is not also that of steps."""
        return abs(self.length / self.epochs - 1) <= _MATCH and self.planned >= 2 * self.epochs
