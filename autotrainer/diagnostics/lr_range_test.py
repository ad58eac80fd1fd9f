"""The learning-rate range test: a short training whose rate grows from step to step (Smith, WACV 2017, 1506.01186)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from autotrainer.adapter.spec import Evaluation, Trained
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.signals import Floats
from autotrainer.records.task import TaskContext
from autotrainer.training.base_run import ManagedMonitor
from autotrainer.training.budget import Workload

__all__ = ["RangeTestRun", "rates_around", "suggested_rate"]

_REACH = 1000.0
"""Factor between the original rate and the smallest and the largest rate of the test; with a larger one, the rate grows
too fast from step to step."""
_SMALLEST, _LARGEST = 1e-7, 10.0
_SMOOTHING = 0.8
_EXPLODED = 2.0
"""Ratio of the smoothed loss to the loss at the start at which the test is over."""
_MIN_DECREASE = 0.05
"""Minimum decrease of the loss, relative to the loss at the start, for which a rate is suggested."""
_NOISE = 2.0
"""The same in standard deviations of single losses: 1 % of runs of pure noise decrease as much once smoothed."""
_BACK = 10.0
"""Divides the rate of the lowest loss, at which training is about to become unstable: the result is suggested."""


class RangeTestRun:
    """The core's side of a range test: implements `autotrainer.adapter.Run`.

    Args:
        rates: Rate of each step.
        set_rate: Sets the rate of the training; returns whether it could.
        afford: Accounts for operations, if the budget allows them.
    """

    def __init__(
        self, rates: Floats, set_rate: Callable[[Trained, float], bool], afford: Callable[[int], bool]
    ) -> None:
        self.monitor: Monitor = _LossMonitor([], StepSampler(), quiet=True)
        self.paused = False
        self._rates, self._set_rate, self._afford = rates, set_rate, afford
        self._kept: Trained | None = None
        self._workload = Workload(1)
        self._step = 0

    @property
    def losses(self) -> tuple[Floats, Floats]:
        """Rates and losses of the steps that were run."""
        steps, losses = self.monitor.history.losses
        done = steps < self._step
        return self._rates[steps[done]], losses[done]

    def keep(self, trained: Trained) -> None:
        """Take what is about to be trained."""
        self._kept = trained

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the operations of one forward pass of one sample."""
        self._workload = Workload(operations)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done, and set the rate of the step."""
        if self._step >= len(self._rates):
            return False
        if training:
            assert self._kept is not None, "trainers call keep before the first step"
            if not self._set_rate(self._kept, float(self._rates[self._step])):
                return False
        if not self._afford(self._workload.of(int(samples), training=training)):
            return False
        self._step += training
        return True

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Continue until all rates are tried or the loss is not finite."""
        return self._step < len(self._rates) and math.isfinite(values.get("loss", 0.0))


class _LossMonitor(ManagedMonitor):
    """Records only losses."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns to measure."""
        return frozenset({"loss"})


def rates_around(rate: float, steps: int) -> Floats:
    """Return rates that grow geometrically from step to step, with the original rate in the middle."""
    low, high = max(_SMALLEST, rate / _REACH), min(_LARGEST, rate * _REACH)
    return np.geomspace(min(low, high), high, steps)


def suggested_rate(rates: Floats, losses: Floats) -> float:
    """Return a rate to train with: a tenth of the rate of the lowest loss; NaN if the loss did not decrease.

    Args:
        rates: Rate of each step, rising.
        losses: Loss of each step's batch.
    """
    nonfinite = np.flatnonzero(~np.isfinite(losses))
    losses = losses[: nonfinite[0]] if nonfinite.size else losses
    if len(losses) < 10:
        return math.nan
    smooth = np.empty(len(losses))
    mean = 0.0
    for step, loss in enumerate(losses):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * float(loss)
        smooth[step] = mean / (1 - _SMOOTHING ** (step + 1))
    first = len(losses) // 5
    start = float(np.median(losses[:first]))
    noise = 1.48 * float(np.median(np.abs(np.diff(losses[: 2 * first])))) / math.sqrt(2)  # independent of the trend
    exploded = np.flatnonzero(smooth > start + (_EXPLODED - 1) * abs(start) + 3 * noise)
    smooth = smooth[: exploded[0]] if exploded.size else smooth
    lowest = int(np.argmin(smooth)) if len(smooth) else 0
    if lowest < first or start - smooth[lowest] < max(_MIN_DECREASE * abs(start), _NOISE * noise):
        return math.nan
    return float(rates[lowest]) / _BACK
