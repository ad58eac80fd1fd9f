"""The learning-rate range test: a short training whose rate grows from step to step (Smith, WACV 2017, 1506.01186)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from autotrainer.adapter.spec import Evaluation, Trained, TrainingSpec
from autotrainer.adapter.trainer import Trainer
from autotrainer.edits import Edit, SetLearningRate, SwapOptimizer
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.signals import Floats
from autotrainer.records.task import TaskContext
from autotrainer.training.base_run import BaseRun, ManagedMonitor
from autotrainer.training.budget import Workload

__all__ = [
    "RangeTestRun",
    "range_test",
    "range_test_after_repair",
    "rate_in_doubt",
    "rates_around",
    "suggested_rate",
]

_STEPS, _MIN_STEPS, _SHARE = 60, 30, 0.1
"""Steps of a range test: maximum, minimum, and as a share of those of the training."""
_MEASURED = frozenset({"first_step", "typical_step"})
"""Evidence on the size of steps: it suggests a rate as well as a range test would, and costs nothing."""

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


def rate_in_doubt(findings: Sequence[Finding]) -> bool:
    """Return whether another learning rate may fix an error without a root, and no measured step size suggests one."""
    roots = [f for f in findings if f.severity is Severity.ERROR and f.caused_by is None]
    measured = any(_MEASURED.intersection(f.evidence) for f in roots)
    return not measured and any("scale_learning_rate" in f.repairs for f in roots)


def range_test(trainer: Trainer, spec: TrainingSpec, context: TaskContext, afford: Callable[[int], bool]) -> float:
    """Run a short training from the start, whose rate grows from step to step.

    Args:
        trainer: Runs it.
        spec: Recipe of the training whose rate is in question.
        context: That training.
        afford: Accounts for operations, if the budget allows them.

    Returns:
        The rate that it suggests; NaN if none helps, the training is too short, or its rate can't be set.
    """
    rate, planned = context.optimizer.learning_rate, context.planned_steps or 0
    steps = min(_STEPS, int(_SHARE * planned))
    if steps < _MIN_STEPS or not 0 < rate < math.inf or not trainer.supports(SetLearningRate(rate)):
        return math.nan
    test = RangeTestRun(rates_around(rate, steps), trainer.set_rate, afford)
    try:
        trainer.train(replace(spec, rehearsal=True), test)
    finally:
        test.monitor.close()
    return suggested_rate(*test.losses)


def range_test_after_repair(trainer: Trainer, spec: TrainingSpec, run: BaseRun) -> None:
    """Look for the rate that suits a repaired training, which need not be that of the original one.

    The test runs only if the rate is in doubt and may be another one since the last that was set: another optimizer,
    or changed inputs, targets, loss or layers.

    Args:
        trainer: Runs trainings.
        spec: Recipe of the repaired training, which has ended.
        run: The core's side of it; accounts for the work, and its monitor learns the result.
    """
    if spec.start == 0 and _moves_rate(spec.edits) and rate_in_doubt(run.monitor.findings):
        rate = range_test(trainer, spec, run.monitor.context, run.afford)
        run.monitor.learn({"suggested_rate": rate} if math.isfinite(rate) else {})


def _moves_rate(edits: Sequence[Edit]) -> bool:
    """Return whether edits after the last that sets the rate change which rate suits."""
    last = max((place for place, edit in enumerate(edits) if isinstance(edit, SetLearningRate)), default=-1)
    kinds = ("input", "output", "loss", "architecture")
    return any(
        edit.change >= 1 or edit.affects in kinds or isinstance(edit, SwapOptimizer) for edit in edits[last + 1 :]
    )


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
