"""The core's side of a managed training: what it may cost, what is known at its epochs' ends, and when it is stuck."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from autotrainer.adapter.spec import Evaluation, Trained, TrainingSpec
from autotrainer.edits import Rollback, StopEarly
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.data import ArrayData, Data, finite_rows
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule
from autotrainer.scoring.metrics import Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget, Workload

__all__ = ["BaseRun", "ManagedMonitor", "ManagedRun"]

_PATIENCE = ((0.95, 0.0), (0.9, 0.15), (0.0, 1 / 3))
"""Confidence of a `not_learning` error, at least, and the share of the planned epochs that must be over before it
ends the training as given: gradients that are exactly zero end it at once, a loss that is merely flat may still move.
An attempt gets half of that: it costs less to give up than to be patient with many."""


class ManagedMonitor(Monitor):
    """A monitor inside `fit`: what the trainer knows of its training completes what is observed."""

    given: TaskContext | None = None

    def begin(self, context: TaskContext) -> None:
        """Start or refine the run."""
        given = self.given
        if given is not None:
            context = replace(
                given,
                layers=context.layers or given.layers,
                output_activation=context.output_activation or given.output_activation,
                output_units=context.output_units or given.output_units,
                input_kind=given.input_kind if context.input_kind == "unknown" else context.input_kind,
                planned_epochs=given.planned_epochs or context.planned_epochs,
                planned_steps=given.planned_steps or context.planned_steps,
            )
        super().begin(replace(context, managed=True))


class BaseRun:
    """What every managed training keeps: its monitor, its values at the ends of epochs, its work, and when it is stuck.

    Args:
        spec: Recipe of the training.
        rules: Rules in force; none, and nothing is measured.
        budget: What may still be done.
        baseline: Whether this is the training as given.
        stops: Whether an error that shows the training stuck ends it.
        log_dir: Folder for the run log, or None.
        tell: Called at each epoch's end with (epoch, score).
        on_finding: Called with each new finding.
        facts: What is known of the data beforehand, by name: see `autotrainer.records.facts.FACTS`.
        until: Epochs after which it ends, whatever is planned; None: at its planned end.
        pauses: Whether it is only paused then, and may go on: see `extend`.

    Attributes:
        work: Its work so far, in operations; of one that goes on after a pause, since then.
        total: The same since its start.
        granted: Training steps so far.
        peak: The most that it has asked the budget for, its own work before included: a budget that allows so much at
            its beginning does not cut it.
        cut_short: Whether the budget ended it.
        paused: Whether it was paused.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        rules: Sequence[Rule],
        budget: Budget,
        *,
        baseline: bool = False,
        stops: bool = True,
        until: int | None = None,
        pauses: bool = False,
        log_dir: str | Path | None = None,
        tell: Callable[[int, float], None] | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        facts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        sampler = StepSampler(active=bool(rules))
        self.monitor: Monitor = ManagedMonitor(rules, sampler, log_dir=log_dir, on_finding=on_finding, quiet=True)
        self.context = TaskContext()
        self.judged: Score | None = None
        self.history: dict[str, list[float]] = {}
        self.work = self.total = self.peak = self.granted = 0
        self.cut_short = self.paused = False
        self.stuck = False
        self.sound = False
        """Whether its last epoch was judged, and no error found."""
        self._spec, self._budget, self._tell = spec, budget, tell
        self._baseline, self._stops = baseline, stops
        self._facts, self._until, self._pauses = dict(facts), until, pauses
        self._workload = Workload(1)
        self._epochs = 0
        self._next_verdict = 0

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training and the operations of one forward pass of one sample."""
        self._workload = Workload(operations)
        epochs = context.planned_epochs or self._spec.epochs
        self.context = replace(context, managed=True, planned_epochs=epochs, asked=self._facts)
        if isinstance(self.monitor, ManagedMonitor):
            self.monitor.given = self.context
            observed = self.monitor.context
            self.monitor.begin(observed if observed.framework != "unknown" else self.context)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done, if the budget allows it."""
        work = self._workload.of(int(samples), training=training)
        reserve = self._reserve() if training else 0
        self.peak = max(self.peak, self.work + work + reserve)
        if training and not self._budget.allows(work + reserve):
            self.cut_short = True
        granted = not (training and self.cut_short) and self._account(work)
        self.granted += training and granted
        return granted

    def afford(self, work: int) -> bool:
        """Account for work that is no pass through the model, if the budget allows it."""
        return self._budget.allows(work) and self._account(work)

    @property
    def operations(self) -> int:
        """Operations of one forward pass of one sample."""
        return self._workload.operations

    def tell_monitor(self, numbers: Mapping[str, float]) -> None:
        """Say that an epoch has ended, and what is known of it, by name."""
        if self._baseline and self._epochs == 0 and not self.cut_short:
            self._budget.measure(self._spec.epochs * self._work_of_epoch())
        self.monitor.end_epoch(**numbers)

    def conclude(self, epoch: int, numbers: Mapping[str, float], score: float, *, finite: bool) -> bool:
        """Judge an epoch that the monitor knows of.

        Args:
            epoch: The epoch.
            numbers: What is known of it, by name.
            score: Its score, NaN if it has none.
            finite: Whether it is known to be sound: a training that came out of NaN again goes on.

        Returns:
            Whether to go on.
        """
        for name, value in {**numbers, "score": score}.items():
            column = self.history.setdefault(name, [])
            column += [math.nan] * (self._epochs - len(column))
            column.append(value)
        self._epochs += 1
        if self._tell is not None:
            self._tell(epoch, score)
        self.stuck = self._stops and self._is_stuck(numbers, finite)
        ended, over = self.stuck or self.cut_short, self._epochs == self._until
        self.paused = over and self._pauses and not ended
        return not (ended or over)

    def extend(self, budget: Budget, until: int | None, tell: Callable[[int, float], None] | None) -> None:
        """Have a paused training go on; its work counts anew.

        Args:
            budget: What may still be done.
            until: Epochs after which it is paused again, counted from its start; None: at its planned end.
            tell: Called at each epoch's end with (epoch, score).
        """
        self._budget, self._until, self._tell = budget, until, tell
        self.work = self.peak = 0
        self.paused = False

    def _reserve(self) -> int:
        """Return the work that must stay possible after the next training step."""
        return 0

    def _work_of_epoch(self) -> int:
        """Return the work of a whole epoch, at the end of the first one."""
        return self.work

    def _account(self, work: int) -> bool:
        self._budget.spend(work)
        self.work += work
        self.total += work
        return True

    def _is_stuck(self, numbers: Mapping[str, float], finite: bool) -> bool:
        self.sound = False
        broken = not all(math.isfinite(numbers.get(name, 0.0)) for name in ("loss", "val_loss"))
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
        patience = next(share for sure, share in _PATIENCE if errors["not_learning"].confidence >= sure)
        return self._epochs >= patience * self._spec.epochs * (1.0 if self._baseline else 0.5)


class ManagedRun(BaseRun):
    """What the core gives a `Trainer` for one training: implements `autotrainer.adapter.Run`.

    Args:
        spec: Recipe of the training.
        rules: Rules in force; none, and nothing is measured.
        budget: What may still be done.
        judge: Scores evaluations.
        train: Training data.
        validation: Validation data.
        **options: Those of `BaseRun`.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        rules: Sequence[Rule],
        budget: Budget,
        judge: Scorer,
        train: Data,
        validation: Data,
        **options: Any,
    ) -> None:
        super().__init__(spec, rules, budget, **options)
        self.kept: Trained | None = None
        self._judge = judge
        self._train_rows = train.rows if isinstance(train, ArrayData) else None
        self._validation_rows = validation.rows if isinstance(validation, ArrayData) else None
        self._good_rows = finite_rows(validation) if isinstance(validation, ArrayData) else None
        self._evaluations = 2 if any(isinstance(edit, StopEarly) for edit in spec.edits) else 1
        self._evaluated = 0

    def keep(self, trained: Trained) -> None:
        """Take what is about to be trained."""
        self.kept = trained

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training and the operations of one forward pass of one sample."""
        super().start(context, operations)
        if self._baseline and self._train_rows is not None and self._validation_rows is not None:
            epoch = self._workload.of(self._train_rows, training=True)
            epoch += self._workload.of(self._validation_rows, training=False)
            self._budget.measure(self._spec.epochs * epoch)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done, if the budget allows it."""
        if training:
            return super().spend(samples, training=True)
        work = self._workload.of(int(samples), training=False)
        self.peak = max(self.peak, self.work + work)
        if not (self._budget.timed or self._budget.allows(work)):
            return False
        self._evaluated += int(samples)
        return self._account(work)

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Take what is known at the end of an epoch, and say whether to go on."""
        numbers = {name: float(value) for name, value in values.items()}
        score = math.nan
        if evaluation is not None:
            self.judged = self._judge.score(evaluation)
            score = self.judged.value
            numbers["val_loss"] = float(evaluation.training_loss)
            if not math.isfinite(numbers["val_loss"]) and self._finite_on_good_rows(evaluation):
                del numbers["val_loss"]  # it tells of the data, not of the model
            accuracy = self._judge.accuracy(evaluation, self.judged)
            if not math.isnan(accuracy):
                numbers["val_accuracy"] = accuracy
            if self._validation_rows is None:
                self._validation_rows = self._evaluated
        self._evaluated = 0
        self.tell_monitor(numbers)
        return self.conclude(epoch, numbers, score, finite=evaluation is not None and _all_finite(evaluation))

    @property
    def validation_rows(self) -> int:
        """Rows of validation data, 0 while that is unknown."""
        return self._validation_rows or 0

    def _finite_on_good_rows(self, evaluation: Evaluation) -> bool:
        """Say whether only rows of the validation data that hold NaN or infinity have predictions that are so."""
        if self._good_rows is None or len(evaluation.outputs) <= len(self._good_rows):
            return False
        return bool(np.isfinite(np.asarray(evaluation.outputs)[self._good_rows]).all())

    def _reserve(self) -> int:
        return self._evaluations * self._workload.of(self.validation_rows, training=False)


def _all_finite(evaluation: Evaluation) -> bool:
    """Say whether all predictions are finite."""
    outputs = np.asarray(evaluation.outputs)
    return outputs.dtype.kind != "f" or bool(np.isfinite(outputs).all())
