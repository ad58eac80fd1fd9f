"""The schedule of the learning rate in a watched training, and the batches of its loader."""

from __future__ import annotations

import math
from dataclasses import replace

from torch.optim import Optimizer

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.model.describe import learning_rate
from autotrainer.backends.pytorch.optim.schedule_state import ScheduleState
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.watching.epochs.epoch_detector import EpochDetector
from autotrainer.backends.pytorch.watching.step_measurement import StepMeasurement
from autotrainer.monitoring.guard import StatisticGuard

__all__ = ["WatchedSchedule"]

_SEARCH = 0.1
"""Seconds that looking for a scheduler among all objects takes, about."""
_SEARCHES = (1, 4, 16)
"""Sampled steps at which a scheduler is looked for, and at the end."""


class WatchedSchedule:
    """Reads how far the loop is: in the schedule of its learning rate, and in its loader.

    Args:
        optimizer: The optimizer.
        monitor: Receives what is found.
        measurement: Measures sampled steps.
        detector: Knows the loader.
        guard: Keeps statistics apart.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: Recorder,
        measurement: StepMeasurement,
        detector: EpochDetector,
        guard: StatisticGuard,
    ) -> None:
        self._optimizer, self._state = WeakSequence([optimizer]), ScheduleState(optimizer)
        self._monitor, self._measurement, self._detector, self._guard = monitor, measurement, detector, guard
        self._samples = 0

    def columns(self) -> dict[str, float]:
        """Return `STEP_COLUMNS` of the loop around the sampled step, and report what is new about it."""
        batches, length = self._detector.batches
        known = {"epoch_batches": length, "restarted_batches": self._detector.restarted_batches}
        asked = self._monitor.context.asked
        news = {name: count for name, count in known.items() if math.isfinite(count) and asked.get(name) != count}
        if news:
            self._monitor.learn(news)
        if self._monitor.context.optimizer.scheduled and not self._monitor.context.managed:
            self._samples += 1
            if self._samples in _SEARCHES and self._monitor.sampler.affordable(_SEARCH):
                self._state.find()
            self._describe()
        return {"loader_batches": batches, "scheduler_steps": self._state.steps}

    def report_end(self, steps: int) -> None:
        """Report learning rate and scheduler at the end of a training of so many steps."""
        optimizer = next(iter(self._optimizer), None)
        if optimizer is None or not steps:
            return
        facts = self._guard.measure("learning rate", self._final_facts, optimizer) or {}
        self._monitor.learn({name: value for name, value in facts.items() if math.isfinite(value)})

    def _final_facts(self, optimizer: Optimizer) -> dict[str, float]:
        facts = {"final_rate": learning_rate(optimizer)}
        if self._monitor.context.optimizer.scheduled:
            if self._monitor.sampler.affordable(_SEARCH):
                self._state.find()
            self._describe()
            facts["final_scheduler_steps"] = self._state.steps
        return facts

    def _describe(self) -> None:
        """Report a scheduler that has been found."""
        before, state = self._measurement.context.optimizer, self._state
        if state.name and not before.schedule:
            now = replace(before, schedule=state.name, schedule_length=state.length)
            if state.constant:
                self._measurement.constant_rate = True
                now = replace(before, scheduled=False)
            self._measurement.context = replace(self._measurement.context, optimizer=now)
            self._monitor.begin(self._measurement.context)
