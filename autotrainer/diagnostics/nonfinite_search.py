"""Finding the first value that is not finite: which steps to replay, and the core's side of the replay."""

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

__all__ = ["NonfiniteReplay", "broken", "suspects"]

_SLACK = 2
"""Steps to look at beyond the first that is known to be bad."""


class NonfiniteReplay:
    """The core's side of a replay: implements `autotrainer.adapter.Search`.

    Args:
        first: First step to check.
        last: Last step to replay.
        limit: Work that the replay may take.
        afford: Accounts for work, if the budget allows it.
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
    def told(self) -> FirstNonfinite | None:
        """What was found, if it fits the training that was replayed: its first step had a finite loss.

        A replay differs where callbacks are objects, which serve one training only, or data come in another order.
        """
        found = self.found
        if found is None or not self.first or found.step > self.first:
            return found
        return found if found.step == self.first and found.tensor in ("gradient", "weight") else None

    def keep(self, trained: Trained) -> None:
        """Take what is about to be trained: nothing of it is kept."""

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the operations of one forward pass of one sample."""
        self._workload = Workload(operations)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done: a step that is checked counts twice.

        To check a value takes an operation, and each operation of the step makes one value at most.
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
        """Go on until something is found."""
        return self.found is None and self.steps <= self._last and evaluation is not None


def broken(findings: Sequence[Finding]) -> bool:
    """Say whether a training has ended in values that are not finite."""
    return any(f.problem == "nonfinite" and f.severity is Severity.ERROR for f in findings)


def suspects(history: RunHistory) -> tuple[int, int] | None:
    """Return the first and the last step in which training values may have stopped to be finite; None if never.

    The first is the last whose loss is known to be finite: its update may have been bad already.
    """
    steps, losses = history.losses
    bad = [int(s) for s in steps[np.isinf(losses)][:1]]
    of_samples = np.isinf(history.scalar("grad_norm")) | np.isinf(history.layer("weight_norm")).any(axis=1)
    bad += [int(s) for s in history.steps[of_samples][:1]]
    if not bad:
        return None
    fine = steps[np.isfinite(losses) & (steps < min(bad))]
    return (int(fine[-1]) if fine.size else 0), min(bad) + _SLACK
