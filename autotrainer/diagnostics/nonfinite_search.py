"""The search for the first non-finite value: which steps to replay, and the core's side of the replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autotrainer.adapter.spec import Evaluation, Trained
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.nonfinite import FirstNonfinite
from autotrainer.records.task import TaskContext
from autotrainer.training.budget import Workload

__all__ = ["NonfiniteReplay", "ended_nonfinite", "suspect_steps"]

_SLACK = 2
"""Steps to replay beyond the first one that is known to be non-finite."""


class NonfiniteReplay:
    """The core's side of a replay: implements `autotrainer.adapter.ReplayRun`.

    Args:
        first: First step to check.
        last: Last step to replay.
        limit: Maximum operations of the replay.
        afford: Accounts for operations, if the budget allows them.

    Attributes:
        found: What the trainer has found, or None.
        steps: Training steps so far.
    """

    def __init__(self, first: int, last: int, limit: float, afford: Callable[[int], bool]) -> None:
        self.monitor = Monitor([], StepSampler(active=False), quiet=True)
        self.first = first
        self.found: FirstNonfinite | None = None
        self.paused = False
        self.steps = 0
        self._last, self._limit, self._afford = last, limit, afford
        self._workload = Workload(1)
        self._work = 0

    @property
    def confirmed(self) -> FirstNonfinite | None:
        """What was found, if it is consistent with the original training, where the first step had a finite loss.

        A replay can differ if callbacks are objects, which serve a single training, or if data come in another order.
        """
        found = self.found
        if found is None or not self.first or found.step > self.first:
            return found
        return found if found.step == self.first and found.tensor in ("gradient", "weight") else None

    def keep(self, trained: Trained) -> None:
        """Take what is about to be trained; it is not needed."""

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the operations of one forward pass of one sample."""
        self._workload = Workload(operations)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done: a step that is checked counts twice.

        Checking a value takes one operation, and each operation of the step produces at most one value.
        """
        if self.found is not None or (training and self.steps > self._last):
            return False
        work = self._workload.of(int(samples), training=training)
        work *= 2 if training and self.steps >= self.first else 1
        if self._work + work > self._limit or not self._afford(work):
            return False
        self._work += work
        self.steps += training
        return True

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Continue until something is found, or the last step is replayed."""
        return self.found is None and self.steps <= self._last and evaluation is not None


def ended_nonfinite(findings: Sequence[Finding]) -> bool:
    """Return whether a training has ended in non-finite values."""
    return any(f.problem == "nonfinite" and f.severity is Severity.ERROR for f in findings)


def suspect_steps(history: RunHistory) -> tuple[int, int] | None:
    """Return the first and the last step in which the first non-finite value may have arisen; None if all are finite.

    The first is the last step whose loss is known to be finite: its update may have produced the value.
    """
    steps, losses = history.losses
    nonfinite = [int(s) for s in steps[np.isinf(losses)][:1]]
    in_samples = np.isinf(history.scalar("grad_norm")) | np.isinf(history.layer("weight_norm")).any(axis=1)
    nonfinite += [int(s) for s in history.steps[in_samples][:1]]
    if not nonfinite:
        return None
    finite = steps[np.isfinite(losses) & (steps < min(nonfinite))]
    return (int(finite[-1]) if finite.size else 0), min(nonfinite) + _SLACK
