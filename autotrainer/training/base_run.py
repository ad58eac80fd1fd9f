"""What every managed training shares: its monitor, its values per epoch, its work, and when it is stuck."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.edits import Rollback, SkipUpdates, WeightClasses
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule
from autotrainer.scoring.metrics import Score
from autotrainer.training.budget import Budget, Workload

__all__ = ["BaseRun", "ManagedMonitor"]

_PATIENCE = ((0.95, 0.0), (0.9, 0.15), (0.0, 1 / 3))
"""Minimum confidence of a `not_learning` error, and the share of the planned epochs after which it stops the baseline
training: gradients that are exactly zero stop it at once, but a flat loss may still move. Attempts get half as long,
because there are many of them."""
_FIRST_LOOK = (16, 128)
"""Training steps after which an attempt, or the baseline, is first tested within an epoch for a state that no step
leaves; then whenever they double. The baseline has to show its cause, which may take more steps than the state."""
_ZEROS = 10
"""Samples in a row whose gradients are exactly zero before that counts."""


class ManagedMonitor(Monitor):
    """A monitor inside `fit`: the trainer's context completes what is observed."""

    trainer_context: TaskContext | None = None

    def begin(self, context: TaskContext) -> None:
        """Start or refine the run."""
        base = self.trainer_context
        if base is not None:
            context = replace(
                base,
                layers=context.layers or base.layers,
                output_activation=context.output_activation or base.output_activation,
                output_units=context.output_units or base.output_units,
                input_kind=base.input_kind if context.input_kind == "unknown" else context.input_kind,
                planned_epochs=base.planned_epochs or context.planned_epochs,
                planned_steps=base.planned_steps or context.planned_steps,
            )
        super().begin(replace(context, managed=True))


class BaseRun:
    """The core's side of one managed training.

    Args:
        spec: Recipe of the training.
        rules: Rules in force; without any, nothing is measured.
        budget: Limits the work.
        baseline: Whether this is the baseline training.
        stop_if_stuck: Whether an error that shows the training is stuck ends it.
        until: Number of epochs after which it ends, whatever is planned; None for its planned end.
        pauses: Whether it is paused then, so that it can continue: see `extend`.
        max_steps: Number of training steps after which it ends, or None.
        log_dir: Folder for the run log, or None.
        on_epoch: Called at the end of each epoch with (epoch, score).
        on_finding: Called with each new finding.
        halt: Called before each training step but the first, and at the end of each epoch; returns whether to end the
            training there.
        facts: Diagnostics of the data, by name: see `autotrainer.records.facts.FACTS`.

    Attributes:
        monitor: Records the training and finds problems in it.
        context: The training, as the trainer describes it.
        score: Its last validation score, or None.
        evaluation: Its last evaluation on the validation data, until its end; None in a loop of the user's.
        history: Values by name, one per epoch; NaN where an epoch has none.
        work: Operations so far; after a pause, only those since then.
        total: Operations since its start.
        granted: Training steps so far.
        samples: Training samples so far.
        peak: The largest amount of work that it has asked the budget for, including its own previous work: a budget
            that allows as much at the start does not cut it short.
        cut_short: Whether the budget, or `max_steps`, ended it.
        paused: Whether it is paused.
        stuck: Whether an error showed that it was stuck, and ended it.
        halted: Whether `halt` ended it.
        partial: Whether it ended within an epoch.
        sound: Whether the verdict on its last epoch had no error.
        judged: Whether its outcome is judged: not without rules.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        rules: Sequence[Rule],
        budget: Budget,
        *,
        baseline: bool = False,
        stop_if_stuck: bool = True,
        until: int | None = None,
        pauses: bool = False,
        max_steps: int | None = None,
        log_dir: str | Path | None = None,
        on_epoch: Callable[[int, float], None] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        halt: Callable[[BaseRun], bool] | None = None,
        facts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        sampler = StepSampler(active=bool(rules))
        self.monitor: Monitor = ManagedMonitor(rules, sampler, log_dir=log_dir, on_finding=on_finding, quiet=True)
        self.context = TaskContext()
        self.judged = bool(rules)
        self.score: Score | None = None
        self.evaluation: Evaluation | None = None
        self.history: dict[str, list[float]] = {}
        self.work = self.total = self.peak = self.granted = self.samples = 0
        self.cut_short = self.paused = self.stuck = self.halted = self.sound = self.partial = False
        self._spec, self._budget, self._on_epoch, self._halt = spec, budget, on_epoch, halt
        self._baseline, self._stop_if_stuck = baseline, stop_if_stuck
        self._facts, self._until, self._pauses, self._max_steps = dict(facts), until, pauses, max_steps
        self._workload = Workload(1)
        self._epochs = self._samples_before_epoch = 0
        self._next_verdict, self._next_look = 0, _FIRST_LOOK[baseline]

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training and the operations of one forward pass of one sample."""
        self._workload = Workload(operations)
        epochs = context.planned_epochs or self._spec.epochs
        loss = context.loss
        for edit in self._spec.edits:
            if isinstance(edit, WeightClasses):
                loss = replace(loss, weighted=len(set(edit.weights)) != 1)
        self.context = replace(context, loss=loss, managed=True, planned_epochs=epochs, asked=self._facts)
        if isinstance(self.monitor, ManagedMonitor):
            self.monitor.trainer_context = self.context
            observed = self.monitor.context
            self.monitor.begin(observed if observed.framework != "unknown" else self.context)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for a training step or a forward pass that is about to run; return whether the budget allows it."""
        work = self._workload.of(int(samples), training=training)
        reserve = self._reserve() if training else 0
        self.peak = max(self.peak, self.work + work + reserve)
        if training and (self.granted == self._max_steps or not self._budget.allows(work + reserve)):
            self.cut_short = True
        elif training and self.samples > self._samples_before_epoch:
            self.stuck = self._stop_if_stuck and self._is_stuck_for_good()
            self.halted = not self.stuck and self._halt is not None and self._halt(self)
        granted = not (training and (self.cut_short or self.halted or self.stuck)) and self._account(work)
        self.partial |= training and not granted and self.samples > self._samples_before_epoch
        if training and granted:
            self.granted += 1
            self.samples += int(samples)
        return granted

    def afford(self, work: int) -> bool:
        """Account for operations outside the model; return whether the budget allows them."""
        self.peak = max(self.peak, self.work + work)
        return self._budget.allows(work) and self._account(work)

    @property
    def operations(self) -> int:
        """Operations of one forward pass of one sample."""
        return self._workload.operations

    def end_monitored_epoch(self, values: Mapping[str, float]) -> None:
        """End the monitor's epoch with these values by name; the first epoch of a baseline sets the budget's unit."""
        if self._baseline and self._epochs == 0 and not (self.cut_short or self.halted or self.stuck):
            self._budget.measure(self._spec.epochs * self._work_of_epoch())
        self.monitor.end_epoch(**values)

    def conclude(self, epoch: int, values: Mapping[str, float], score: float, *, finite: bool) -> bool:
        """Record an epoch after `end_monitored_epoch`, and decide whether the training continues.

        Args:
            epoch: The epoch.
            values: Its values by name.
            score: Its score, NaN if it has none.
            finite: Whether its predictions or weights are known to be finite: a training that has recovered from NaN
                continues.

        Returns:
            Whether to continue.
        """
        for name, value in {**values, "score": score}.items():
            column = self.history.setdefault(name, [])
            column += [math.nan] * (self._epochs - len(column))
            column.append(value)
        self._epochs += 1
        self._samples_before_epoch = self.samples
        if self._on_epoch is not None:
            self._on_epoch(epoch, score)
        self.stuck = self.stuck or (self._stop_if_stuck and self._is_stuck(values, finite))
        if not (self.stuck or self.cut_short or self.halted) and self._halt is not None:
            self.halted = self._epochs < self._spec.epochs and self._halt(self)
        ended, over = self.stuck or self.cut_short or self.halted, self._epochs == self._until
        self.paused = over and self._pauses and not ended
        return not (ended or over)

    def extend(self, budget: Budget, until: int | None, on_epoch: Callable[[int, float], None] | None) -> None:
        """Continue a paused training; `work` and `peak` count from zero again.

        Args:
            budget: Limits the work.
            until: Number of epochs since its start after which it is paused again; None for its planned end.
            on_epoch: Called at the end of each epoch with (epoch, score).
        """
        self._budget, self._until, self._on_epoch = budget, until, on_epoch
        self.work = self.peak = 0
        self.paused = False

    def _reserve(self) -> int:
        """Return the work that must stay possible after the next training step."""
        return 0

    def _work_of_epoch(self) -> int:
        """Return the work of one full epoch, at the end of the first."""
        return self.work

    def _account(self, work: int) -> bool:
        self._budget.spend(work)
        self.work += work
        self.total += work
        return True

    def _is_stuck_for_good(self) -> bool:
        """Return whether weights are NaN or infinite, or gradients exactly zero: no further step changes that."""
        if self.granted < self._next_look or self._budget.unit is None:  # the first epoch sets the unit
            return False
        self._next_look = 2 * self.granted
        history = self.monitor.history
        if any(isinstance(edit, Rollback | SkipUpdates) for edit in self._spec.edits) or not len(history.steps):
            return False
        if np.isinf(history.layer("weight_norm")[-1:]).any():
            return True
        norms = history.scalar("grad_norm")[-_ZEROS:]
        if len(norms) < _ZEROS or norms.any():
            return False
        stuck = (f for f in self.monitor.findings if f.problem == "not_learning" and f.severity is Severity.ERROR)
        return any(finding.confidence >= _PATIENCE[0][0] for finding in stuck)

    def _is_stuck(self, values: Mapping[str, float], finite: bool) -> bool:
        self.sound = False
        broken = not all(math.isfinite(values.get(name, 0.0)) for name in ("loss", "val_loss"))
        if self._epochs < self._next_verdict and not broken:
            return False
        self._next_verdict = self._epochs + max(1, self._epochs // 16)
        errors = {f.problem: f for f in self.monitor.findings if f.severity is Severity.ERROR}
        self.sound = finite and not broken and not errors
        recovers = any(isinstance(edit, Rollback) for edit in self._spec.edits)
        if "nonfinite" in errors and (not finite or (broken and not recovers)):
            return True
        if "not_learning" not in errors:
            return False
        patience = next(share for confidence, share in _PATIENCE if errors["not_learning"].confidence >= confidence)
        return self._epochs >= patience * self._spec.epochs * (1.0 if self._baseline else 0.5)
