"""Managed trainings: runs one to its end, and keeps what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from autotrainer.adapter.backend import Trainer
from autotrainer.adapter.spec import FitRequest, Trained, TrainingSpec
from autotrainer.edits import Edit, StopEarly
from autotrainer.records.data import ArrayData, Data
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule
from autotrainer.scoring.metrics import LossMetric, Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget
from autotrainer.training.run import ManagedRun

__all__ = ["Failure", "PausedTrial", "Trial", "TrialRunner", "run_trial"]

_BLOCKS = 20
"""Blocks of validation rows that tell the noise of a loss."""


@dataclass(slots=True)
class Trial:
    """A training that has ended.

    Attributes:
        spec: Its recipe.
        trained: The trained model, or None once it was dropped, and where it was trained in another process.
        judged: Its score on the validation data, or None if it never came to one.
        findings: Verdict of its monitor.
        context: What is known of it.
        history: Values by name, one an epoch.
        work: Its work, in operations; of one that went on after a pause, since then.
        cut_short: Whether the budget ended it.
        interrupted: Whether Ctrl-C ended it.
        above_trivial: Whether its score is clearly above that of the trivial predictor.
        edits: The edits in force, with numbers that were fitted on the data filled in.
        granted: Its training steps.
        peak: The most that it has asked the budget for: see `BaseRun`.
        total: Its work since its start.
        stuck: Whether an error that showed it stuck ended it.
        goes_on: Whether it was paused where it may go on.
        paused: What goes on with it, if it is here.
        errors: The findings that are errors.
    """

    spec: TrainingSpec
    trained: Trained | None
    judged: Score | None
    findings: tuple[Finding, ...]
    context: TaskContext
    history: dict[str, list[float]]
    work: int
    cut_short: bool
    interrupted: bool = False
    above_trivial: bool = True
    edits: tuple[Edit, ...] = ()
    granted: int = 0
    peak: int = 0
    total: int = 0
    stuck: bool = False
    goes_on: bool = False
    paused: PausedTrial | None = field(default=None, repr=False)
    errors: tuple[Finding, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.errors = tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def clean(self) -> bool:
        """Whether no error is left; a score at the trivial predictor's level is one, whatever the rules saw."""
        return self.above_trivial and not self.errors

    def close(self) -> None:
        """Let go of the training where it is paused."""
        if self.paused is not None:
            self.paused.close()
            self.paused = None


@dataclass(frozen=True, slots=True)
class PausedTrial:
    """A training that is paused, with the core's side of it."""

    trained: Trained
    run: ManagedRun

    def go_on(self) -> Trained:
        """Train on; see `PausedTraining.go_on`."""
        course = self.trained.paused
        assert course is not None, "a trainer says whether a training is paused"
        if not course.go_on():
            self.trained.paused = None
        return self.trained

    def close(self) -> None:
        """Leave the training as it is, for good."""
        if self.trained.paused is not None:
            self.trained.paused.close()
        self.run.monitor.close()


@dataclass(frozen=True, slots=True)
class Failure:
    """A training that has failed.

    Attributes:
        error: What was raised.
        work: Its work until then, in operations.
        peak: The most that it has asked the budget for.
    """

    error: str
    work: int
    peak: int = 0


@dataclass
class TrialRunner:
    """Runs repaired trainings of one request; can be sent to another process but for its trainer.

    Attributes:
        trainer: Runs trainings.
        request: What `fit` was given.
        rules: Rules in force.
        judge: Scores evaluations.
        log_dir: Folder for run logs, or None.
        facts: What is known of the data: see `autotrainer.diagnostics.diagnostics`.
    """

    trainer: Trainer
    request: FitRequest
    rules: Sequence[Rule]
    judge: Scorer
    log_dir: str | Path | None
    facts: Mapping[str, float] = field(default_factory=dict)

    def run(
        self,
        spec: TrainingSpec,
        budget: Budget,
        until: int | None = None,
        tell: Callable[[int, float], None] | None = None,
        after: Trial | None = None,
    ) -> Trial | Failure:
        """Run one training; whatever goes wrong in it makes it a failure.

        Args:
            spec: Its recipe.
            budget: What may still be done.
            until: Epochs after which it ends, or is paused where the trainer can do so; None: at its planned end.
            tell: Called at each epoch's end with (epoch, score).
            after: The same training, ended after fewer epochs: where it was paused it goes on. If it is not here, it is
                run again up to there, which is not charged again.
        """
        validation = self.request.validation
        if after is None or not after.goes_on:
            run = self._run_of(spec, budget, until, tell)
            train: Callable[[], Trained] = partial(self.trainer.train, spec, run)
        else:
            paused = after.paused or self._again(after)
            if isinstance(paused, Failure):
                return paused
            after.paused = None
            run, train = paused.run, paused.go_on
            run.extend(budget, until, tell)
        try:
            return run_trial(train, spec, run, self.judge, validation)
        except Exception as error:  # noqa: BLE001 - the best training so far is returned then
            return Failure(f"{type(error).__name__}: {error}", run.work, run.peak)

    def _run_of(
        self, spec: TrainingSpec, budget: Budget, until: int | None, tell: Callable[[int, float], None] | None = None
    ) -> ManagedRun:
        request, pauses = self.request, until is not None and self.trainer.resumable
        return ManagedRun(
            spec, self.rules, budget, self.judge, request.train, request.validation,
            log_dir=self.log_dir, tell=tell, facts=self.facts, until=until, pauses=pauses,
        )  # fmt: skip

    def _again(self, trial: Trial) -> PausedTrial | Failure:
        """Return a training that was paused elsewhere, trained up to there once more."""
        run = self._run_of(trial.spec, Budget(math.inf), len(trial.history["score"]))
        try:
            trained = self.trainer.train(trial.spec, run)
            if trained.paused is not None:
                _ = run.monitor.findings  # a verdict, as it was given at the pause
                return PausedTrial(trained, run)
            failure = "it did not come to the same when it was run again"
        except Exception as error:  # noqa: BLE001 - as above
            failure = f"{type(error).__name__}: {error}"
        except BaseException:
            run.monitor.close()
            raise
        run.monitor.close()
        return Failure(failure, 0)


def run_trial(
    train: Callable[[], Trained],
    spec: TrainingSpec,
    run: ManagedRun,
    judge: Scorer,
    validation: Data,
    ask: Callable[[Trained, ManagedRun], None] | None = None,
) -> Trial:
    """Run one training to its end or a pause, or to where it is stuck, interrupted or out of budget.

    Args:
        train: Runs it.
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
    trained: Trained | None = None
    try:
        trained = train()
        if ask is not None:
            with run.monitor.guard("asking"):
                run.monitor.finish()
                ask(trained, run)
    except KeyboardInterrupt:
        if spec.edits or run.kept is None:
            raise
        trained, interrupted = run.kept, True
    finally:
        paused = run.paused and trained is not None and trained.paused is not None
        if not paused:
            run.monitor.close()
    if not interrupted:
        try:
            _settle(trained, spec, run, judge, validation)
        except BaseException as error:
            if paused:
                PausedTrial(trained, run).close()
            if spec.edits or not isinstance(error, KeyboardInterrupt):
                raise
            interrupted = True
    else:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C: the score of the last whole epoch stands
            if run.spend(run.validation_rows, training=False):
                run.judged = judge.score(trained.evaluate(validation))
    findings, context = tuple(run.monitor.findings), run.monitor.context
    if context.framework == "unknown":
        context = run.context
    return Trial(
        spec,
        trained,
        run.judged,
        findings,
        context,
        {name: list(values) for name, values in run.history.items()},
        run.work,
        run.cut_short,
        interrupted=interrupted,
        above_trivial=judge.above_trivial(run.judged),
        edits=trained.edits,
        granted=run.granted,
        peak=run.peak,
        total=run.total,
        stuck=run.stuck,
        goes_on=paused,
        paused=PausedTrial(trained, run) if paused else None,
    )


def _settle(trained: Trained, spec: TrainingSpec, run: ManagedRun, judge: Scorer, validation: Data) -> None:
    """Score the weights that are returned where they are not those of the last epoch, and add a loss's noise."""
    restored = any(isinstance(edit, StopEarly) for edit in trained.edits or spec.edits)
    if restored and run.spend(run.validation_rows, training=False):
        run.judged = judge.score(trained.evaluate(validation))
    metric = judge.metric
    if not isinstance(metric, LossMetric) or run.judged is None or not isinstance(validation, ArrayData):
        return
    if validation.rows >= 2 and run.spend(validation.rows, training=False):
        parts = np.array_split(np.arange(validation.rows), min(_BLOCKS, validation.rows))
        losses = [trained.evaluate(validation.take(part)).loss for part in parts]
        run.judged = metric.with_blocks(run.judged, np.array(losses))
