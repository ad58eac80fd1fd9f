"""Reports the losses of steps that are not sampled, what their inputs were if one is not finite, and the loss scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial

from torch import Tensor, nn

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.ranks.rank_schedule import RankSchedule
from autotrainer.backends.pytorch.watching.losses.loss_call import losses_to_host
from autotrainer.backends.pytorch.watching.losses.loss_tracker import LossTracker, StepCounter
from autotrainer.backends.pytorch.watching.nonfinite_inputs import NonfiniteInputs
from autotrainer.backends.pytorch.watching.step_measurement import StepMeasurement
from autotrainer.monitoring.guard import StatisticGuard

__all__ = ["LossReports"]


class LossReports:
    """Reports what is known of the losses.

    Args:
        model: The model.
        monitor: Receives the reports.
        counter: Counts the steps.
        tracker: Keeps the losses.
        measurement: Measures sampled steps.
        ranks: The other processes, which learn of losses that are not finite.
        guard: Keeps statistics apart.
    """

    def __init__(
        self,
        model: nn.Module,
        monitor: Recorder,
        counter: StepCounter,
        tracker: LossTracker,
        measurement: StepMeasurement,
        ranks: RankSchedule,
        guard: StatisticGuard,
    ) -> None:
        self._monitor, self._counter, self._tracker = monitor, counter, tracker
        self._measurement, self._ranks, self._guard = measurement, ranks, guard
        self._inputs = NonfiniteInputs(model, partial(guard.fail, "inputs"), measurement.stopwatch)
        self._needs_scale = "loss_scale" in monitor.needs

    def end(self) -> None:
        """Remove all hooks."""
        self._inputs.end()

    def report(self) -> None:
        """Report the losses of steps since the last sample; synchronizes with the device."""
        reported = self._counter.nonfinite_step == -1
        kept = self._tracker.take_losses()
        losses = self._guard.measure("loss", losses_to_host, kept) or {}
        terms: dict[str, float] = {}
        if math.inf in losses.values() and not reported:  # later terms follow from the first
            terms = self._guard.measure("loss terms", self._terms_on_host, kept) or {}
        self._monitor.record_losses(sorted(losses.items()), terms)
        self._ranks.note_losses(losses.items())
        self.check_inputs(losses.values())
        if losses and math.inf not in losses.values():
            self._counter.rearm()

    def _terms_on_host(self, losses: Mapping[int, Tensor | float]) -> dict[str, float]:
        return losses_to_host(self._tracker.take_terms(-1, losses))

    def check_inputs(self, losses: Iterable[float]) -> None:
        """Check the inputs of the next steps if a loss is no longer finite, and report the result."""
        if not self._tracker.closed and not self._measurement.compiled and math.inf in losses:
            self._guard.measure("inputs", self._inputs.begin, self._counter.step)
        self._monitor.learn(self._guard.measure("inputs", self._inputs.facts) or {})

    def report_scale(self) -> None:
        """Report the loss scale if steps were skipped: no hook runs in such steps."""
        if self._needs_scale and (self._counter.step or self._counter.losses):
            scale = self._measurement.loss_scale
            self._monitor.learn(self._guard.measure("loss scale", scale.facts, stepped=self._counter.step > 0) or {})
