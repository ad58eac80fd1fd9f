"""Managed trainings: what one training may cost, what is known at its epochs' ends, and when it is stuck."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from autotrainer.adapter import Evaluation, Trained, Trainer, TrainingSpec
from autotrainer.budget import Budget, Workload
from autotrainer.data import ArrayData, Data
from autotrainer.edits import StopEarly
from autotrainer.findings import Finding, Severity
from autotrainer.judging import Judge
from autotrainer.metrics import Judged, LossMetric
from autotrainer.monitor import Monitor
from autotrainer.rule import Rule
from autotrainer.sampler import StepSampler
from autotrainer.task import TaskContext

__all__ = ["ManagedMonitor", "ManagedRun", "Trial", "run_trial"]

_PATIENCE = ((0.95, 0.0), (0.9, 0.15), (0.0, 1 / 3))
"""Confidence of a `not_learning` error, at least, and the share of the planned epochs that must be over before it
ends the training as given: gradients that are exactly zero end it at once, a loss that is merely flat may still move.
An attempt gets half of that: it costs less to give up than to be patient with many."""
_BLOCKS = 20
"""Blocks of validation rows that tell the noise of a loss."""


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


class ManagedRun:
    """What the core gives a `Trainer` for one training: implements `autotrainer.adapter.Run`.

    Args:
        spec: Recipe of the training.
        rules: Rules in force; none, and nothing is measured.
        budget: What may still be done.
        judge: Scores evaluations.
        train: Training data.
        validation: Validation data.
        baseline: Whether this is the training as given.
        stops: Whether an error that shows the training stuck ends it.
        log_dir: Folder for the run log, or None.
        tell: Called at each epoch's end with (epoch, score).
        facts: What is known of the data beforehand, by name: see `autotrainer.task.FACTS`.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        rules: Sequence[Rule],
        budget: Budget,
        judge: Judge,
        train: Data,
        validation: Data,
        *,
        baseline: bool = False,
        stops: bool = True,
        log_dir: str | Path | None = None,
        tell: Callable[[int, float], None] | None = None,
        facts: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.monitor: Monitor = ManagedMonitor(rules, StepSampler(active=bool(rules)), log_dir=log_dir, quiet=True)
        self.context = TaskContext()
        self.kept: Trained | None = None
        self.judged: Judged | None = None
        self.history: dict[str, list[float]] = {}
        self.work = 0
        self.cut_short = False
        self.stuck = False
        self._spec, self._budget, self._judge, self._tell = spec, budget, judge, tell
        self._baseline, self._stops = baseline, stops
        self._facts = dict(facts)
        self._train_rows = train.rows if isinstance(train, ArrayData) else None
        self._validation_rows = validation.rows if isinstance(validation, ArrayData) else None
        self._evaluations = 2 if any(isinstance(edit, StopEarly) for edit in spec.edits) else 1
        self._workload = Workload(1)
        self._epochs = 0
        self._evaluated = 0
        self._next_verdict = 0

    # -- for the trainer ------------------------------------------------------------------------------------------

    def keep(self, trained: Trained) -> None:
        """Take what is about to be trained."""
        self.kept = trained

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training and the operations of one forward pass of one sample."""
        self._workload = Workload(operations)
        epochs = context.planned_epochs or self._spec.epochs
        self.context = replace(context, managed=True, planned_epochs=epochs, asked=self._facts)
        if isinstance(self.monitor, ManagedMonitor):
            self.monitor.given = self.context
            observed = self.monitor.context
            self.monitor.begin(observed if observed.framework != "unknown" else self.context)
        if self._baseline and self._train_rows is not None and self._validation_rows is not None:
            epoch = self._workload.of(self._train_rows, training=True)
            epoch += self._workload.of(self._validation_rows, training=False)
            self._budget.measure(self._spec.epochs * epoch)

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done, if the budget allows it."""
        work = self._workload.of(int(samples), training=training)
        if training:
            reserve = self._evaluations * self._workload.of(self.validation_rows, training=False)
            if not self._budget.allows(work + reserve):
                self.cut_short = True
                return False
        elif self._budget.timed or self._budget.allows(work):
            self._evaluated += int(samples)
        else:
            return False
        self._budget.spend(work)
        self.work += work
        return True

    def afford(self, work: int) -> bool:
        """Account for work that is no pass through the model, if the budget allows it."""
        if not self._budget.allows(work):
            return False
        self._budget.spend(work)
        self.work += work
        return True

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Take what is known at the end of an epoch, and say whether to go on."""
        numbers = {name: float(value) for name, value in values.items()}
        if evaluation is not None:
            self.judged = self._judge.judge(evaluation)
            numbers["val_loss"] = float(evaluation.course)
            accuracy = self._judge.accuracy(evaluation, self.judged)
            if not math.isnan(accuracy):
                numbers["val_accuracy"] = accuracy
            if self._validation_rows is None:
                self._validation_rows = self._evaluated
        self._evaluated = 0
        self._remember(numbers, self.judged.value if evaluation is not None and self.judged else math.nan)
        self._epochs += 1
        if self._baseline and self._epochs == 1 and not self.cut_short:
            self._budget.measure(self._spec.epochs * self.work)
        self.monitor.end_epoch(**numbers)
        if self._tell is not None:
            self._tell(epoch, self.history["score"][-1])
        self.stuck = self._stops and self._is_stuck(numbers, evaluation)
        return not (self.stuck or self.cut_short)

    @property
    def operations(self) -> int:
        """Operations of one forward pass of one sample."""
        return self._workload.operations

    @property
    def validation_rows(self) -> int:
        """Rows of validation data, 0 while that is unknown."""
        return self._validation_rows or 0

    # -- inside ---------------------------------------------------------------------------------------------------

    def _remember(self, numbers: Mapping[str, float], score: float) -> None:
        for name, value in {**numbers, "score": score}.items():
            column = self.history.setdefault(name, [])
            column += [math.nan] * (self._epochs - len(column))
            column.append(value)

    def _is_stuck(self, numbers: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        broken = not all(math.isfinite(numbers.get(name, 0.0)) for name in ("loss", "val_loss"))
        if self._epochs < self._next_verdict and not broken:
            return False
        self._next_verdict = self._epochs + max(1, self._epochs // 16)
        errors = {f.problem: f for f in self.monitor.findings if f.severity is Severity.ERROR}
        if "nonfinite" in errors and (broken or evaluation is None or not _all_finite(evaluation)):
            return True
        if "not_learning" not in errors:
            return False
        patience = next(share for sure, share in _PATIENCE if errors["not_learning"].confidence >= sure)
        return self._epochs >= patience * self._spec.epochs * (1.0 if self._baseline else 0.5)


def _all_finite(evaluation: Evaluation) -> bool:
    """Say whether all predictions are finite: a training that came out of NaN again goes on."""
    outputs = np.asarray(evaluation.outputs)
    return outputs.dtype.kind != "f" or bool(np.isfinite(outputs).all())


@dataclass(slots=True)
class Trial:
    """A training that has ended.

    Attributes:
        spec: Its recipe.
        trained: The trained model, or None once it was dropped.
        judged: Its score on the validation data, or None if it never came to one.
        findings: Verdict of its monitor.
        context: What is known of it.
        history: Values by name, one an epoch.
        work: Its work, in operations.
        cut_short: Whether the budget ended it.
        interrupted: Whether Ctrl-C ended it.
        above_trivial: Whether its score is clearly above that of the trivial predictor.
        errors: The findings that are errors.
    """

    spec: TrainingSpec
    trained: Trained | None
    judged: Judged | None
    findings: tuple[Finding, ...]
    context: TaskContext
    history: dict[str, list[float]]
    work: int
    cut_short: bool
    interrupted: bool = False
    above_trivial: bool = True
    errors: tuple[Finding, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.errors = tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def clean(self) -> bool:
        """Whether no error is left; a score at the trivial predictor's level is one, whatever the rules saw."""
        return self.above_trivial and not self.errors


def run_trial(
    trainer: Trainer,
    spec: TrainingSpec,
    run: ManagedRun,
    judge: Judge,
    validation: Data,
    ask: Callable[[Trained, ManagedRun], None] | None = None,
) -> Trial:
    """Run one training to its end, or to where it is stuck, interrupted or out of budget.

    Args:
        trainer: Runs it.
        spec: Its recipe.
        run: The core's side of it.
        judge: Scores evaluations.
        validation: Validation data.
        ask: Asks about it at its end, before the last verdict; what goes wrong there is no matter of the training.

    Returns:
        The trial. Ctrl-C during the training as given keeps it if it has a score.

    Raises:
        KeyboardInterrupt: If there is nothing to keep.
        Exception: Whatever the trainer raises.
    """
    interrupted = False
    try:
        trained = trainer.train(spec, run)
        if ask is not None:
            with run.monitor.guard("asking"):
                run.monitor.finish()
                ask(trained, run)
    except KeyboardInterrupt:
        if spec.edits or run.kept is None:
            raise
        trained, interrupted = run.kept, True
    finally:
        run.monitor.close()
    if not interrupted:
        try:
            _settle(trained, spec, run, judge, validation)
        except KeyboardInterrupt:
            if spec.edits:
                raise
            interrupted = True
    else:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C: the score of the last whole epoch stands
            if run.spend(run.validation_rows, training=False):
                run.judged = judge.judge(trained.evaluate(validation))
    findings, context = tuple(run.monitor.findings), run.monitor.context
    if context.framework == "unknown":
        context = run.context
    return Trial(
        spec,
        trained,
        run.judged,
        findings,
        context,
        run.history,
        run.work,
        run.cut_short,
        interrupted,
        judge.above_trivial(run.judged),
    )


def _settle(trained: Trained, spec: TrainingSpec, run: ManagedRun, judge: Judge, validation: Data) -> None:
    """Score the weights that are returned where they are not those of the last epoch, and add a loss's noise."""
    restored = any(isinstance(edit, StopEarly) for edit in trained.edits or spec.edits)
    if restored and run.spend(run.validation_rows, training=False):
        run.judged = judge.judge(trained.evaluate(validation))
    metric = judge.metric
    if not isinstance(metric, LossMetric) or run.judged is None or not isinstance(validation, ArrayData):
        return
    if validation.rows >= 2 and run.spend(validation.rows, training=False):
        parts = np.array_split(np.arange(validation.rows), min(_BLOCKS, validation.rows))
        losses = [trained.evaluate(validation.take(part)).loss for part in parts]
        run.judged = metric.with_blocks(run.judged, np.array(losses))
