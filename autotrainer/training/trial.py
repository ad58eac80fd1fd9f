"""Managed trainings: runs one to its end, and keeps its outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from autotrainer.adapter.spec import FitRequest, Trained, TrainingSpec
from autotrainer.adapter.trainer import Trainer
from autotrainer.edits import Edit
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import TaskContext
from autotrainer.reporting.charts.run_charts import RunCharts
from autotrainer.rule import Rule
from autotrainer.scoring.metrics import Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.training.budget import Budget
from autotrainer.training.judging import finalize_score, judge
from autotrainer.training.run import ManagedRun

__all__ = ["Compare", "Failure", "PausedTrial", "Trial", "TrialRunner", "run_trial"]

Compare = Callable[[Trained, ManagedRun, Scorer], Mapping[str, float]]
"""Compares a model with baseline models, and returns facts."""
RangeTest = Callable[[Trainer, TrainingSpec, ManagedRun], None]
"""Looks for the learning rate of a repaired training that has ended, and reports it to its monitor."""


@dataclass(slots=True)
class Trial:
    """A training that has ended.

    Attributes:
        spec: Its recipe.
        trained: The trained model; None once it is dropped, or if it was trained in another process.
        score: Its score on the validation data, or None if it was never evaluated.
        findings: Findings of its monitor.
        context: Its context.
        history: Values by name, one per epoch.
        work: Its operations; after a pause, only those since then.
        cut_short: Whether the budget ended it.
        interrupted: Whether Ctrl-C ended it.
        above_trivial: Whether its score is clearly better than that of a constant prediction, as far as that is known.
        edits: The edits in force, with values fitted on the data filled in.
        granted: Its training steps.
        peak: The largest amount of work that it has asked the budget for: see `BaseRun`.
        total: Its operations since its start.
        stuck: Whether it was ended because it was stuck.
        halted: Whether it was ended because nothing more needs to be known of it: see `BaseRun`.
        samples: Its training samples.
        partial: Whether it ended within an epoch.
        scores: Scores on the way to its end, by the number of training samples until then.
        resumable: Whether it is paused and can continue.
        paused: The paused training, if it is in this process.
        charts: What can be drawn of it; kept of the baseline alone.
        errors: The findings that are errors.
    """

    spec: TrainingSpec
    trained: Trained | None
    score: Score | None
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
    halted: bool = False
    samples: int = 0
    partial: bool = False
    scores: Mapping[int, Score] = field(default_factory=dict)
    resumable: bool = False
    paused: PausedTrial | None = field(default=None, repr=False)
    charts: RunCharts | None = field(default=None, repr=False)
    errors: tuple[Finding, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.errors = tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def clean(self) -> bool:
        """Whether no error is left; a score at the trivial predictor's level counts as one, whatever the rules say."""
        return self.above_trivial and not self.errors

    def close(self) -> None:
        """Give up the paused training, if there is one."""
        if self.paused is not None:
            self.paused.close()
            self.paused = None


@dataclass(frozen=True, slots=True)
class PausedTrial:
    """A paused training, with the core's side of it."""

    trained: Trained
    run: ManagedRun

    def resume(self) -> Trained:
        """Continue the training; see `PausedTraining.go_on`."""
        training = self.trained.paused
        assert training is not None, "a trainer sets Trained.paused where the run is paused"
        if not training.go_on():
            self.trained.paused = None
        return self.trained

    def close(self) -> None:
        """End the training for good."""
        if self.trained.paused is not None:
            self.trained.paused.close()
        self.run.monitor.close()


@dataclass(frozen=True, slots=True)
class Failure:
    """A training that has failed.

    Attributes:
        error: Type and message of what was raised.
        work: Its operations until then.
        peak: The largest amount of work that it has asked the budget for.
    """

    error: str
    work: int
    peak: int = 0


@dataclass
class TrialRunner:
    """Runs repaired trainings of one request. All but the trainer can be sent to another process.

    Attributes:
        trainer: Runs trainings.
        request: The request to `fit`.
        rules: Rules in force.
        scorer: Scores evaluations.
        log_dir: Folder for run logs, or None.
        facts: Diagnostics of the data: see `autotrainer.diagnostics.diagnostics`.
        compare: Compares models with baseline models; None without these.
        range_test: Looks for the learning rate of a repaired training; None if nothing needs it.
    """

    trainer: Trainer
    request: FitRequest
    rules: Sequence[Rule]
    scorer: Scorer
    log_dir: str | Path | None
    facts: Mapping[str, float] = field(default_factory=dict)
    compare: Compare | None = None
    range_test: RangeTest | None = None

    def run(
        self,
        spec: TrainingSpec,
        budget: Budget,
        until: int | None = None,
        on_epoch: Callable[[int, float], None] | None = None,
        shorter: Trial | None = None,
        **options: Any,
    ) -> Trial | Failure:
        """Run one training; an exception in it makes it a failure.

        Args:
            spec: Its recipe.
            budget: Limits the work.
            until: Number of epochs after which it ends, or is paused if the trainer can do so; None for its planned
                end.
            on_epoch: Called at the end of each epoch with (epoch, score).
            shorter: The same training, ended after fewer epochs: if it is paused, it continues. If it is paused in
                another process, it is run again up to that point, which is not charged again.
            **options: Further options of `ManagedRun` for a training from its start.
        """
        if shorter is None or not shorter.resumable:
            run = self._make_run(spec, budget, until, on_epoch, **options)
            train: Callable[[], Trained] = partial(self.trainer.train, spec, run)
        else:
            paused = shorter.paused or self._rerun_to_pause(shorter)
            if isinstance(paused, Failure):
                return paused
            shorter.paused = None
            run, train = paused.run, paused.resume
            run.extend(budget, until, on_epoch)
        try:
            return run_trial(train, spec, run, self.scorer, self.request, partial(self._diagnose, spec, until))
        except Exception as error:  # noqa: BLE001 - the best training so far is returned then
            return Failure(f"{type(error).__name__}: {error}", run.work, run.peak)

    def _diagnose(self, spec: TrainingSpec, until: int | None, trained: Trained, run: ManagedRun) -> None:
        if self.compare is not None:
            run.monitor.learn(self.compare(trained, run, self.scorer))
        if self.range_test is not None and until is None and not run.cut_short:
            self.range_test(self.trainer, spec, run)

    def _make_run(
        self,
        spec: TrainingSpec,
        budget: Budget,
        until: int | None,
        on_epoch: Callable[[int, float], None] | None = None,
        **options: Any,
    ) -> ManagedRun:
        request, pauses = self.request, until is not None and self.trainer.resumable
        return ManagedRun(
            spec, self.rules, budget, self.scorer, request.train, request.validation,
            log_dir=self.log_dir, on_epoch=on_epoch, facts=self.facts, until=until, pauses=pauses, **options,
        )  # fmt: skip

    def _rerun_to_pause(self, trial: Trial) -> PausedTrial | Failure:
        run = self._make_run(trial.spec, Budget(math.inf), len(trial.history["score"]))
        try:
            trained = self.trainer.train(trial.spec, run)
            if trained.paused is not None:
                _ = run.monitor.findings  # evaluates the rules, as it was done at the pause
                return PausedTrial(trained, run)
            failure = "it was not paused at the same epoch when it was run again"
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
    scorer: Scorer,
    request: FitRequest,
    diagnose: Callable[[Trained, ManagedRun], None] | None = None,
) -> Trial:
    """Run one training until it ends, is paused, stuck or interrupted, or exhausts the budget.

    Args:
        train: Runs it.
        spec: Its recipe.
        run: The core's side of it.
        scorer: Scores evaluations.
        request: The request to `fit`, with the data.
        diagnose: Runs diagnostics at its end, before the final findings; an exception there does not fail the training.

    Returns:
        The trial. Ctrl-C during the baseline training keeps what has been trained.

    Raises:
        KeyboardInterrupt: If there is nothing to keep.
        Exception: Whatever the trainer raises.
    """
    interrupted = paused = False
    above: bool | None = None
    trained: Trained | None = None
    try:
        trained = train()
        paused = run.paused and trained.paused is not None
        finalize_score(trained, spec, run, scorer, request.validation)
        if run.halted:
            run.monitor.finish(finished=False)  # not to be judged by what it has reached
        elif not paused:
            with run.monitor.guard("diagnostics"):
                run.monitor.finish()
                above = judge(trained, run, scorer, request)
                if diagnose is not None:
                    diagnose(trained, run)
    except BaseException as error:
        if paused and trained is not None:
            PausedTrial(trained, run).close()
            paused = False
        if not isinstance(error, KeyboardInterrupt) or spec.edits or run.kept is None:
            raise
        trained, interrupted = run.kept, True
    finally:
        if not paused:
            run.monitor.close()
    if interrupted:
        with suppress(KeyboardInterrupt):  # after a second Ctrl-C the score of the last full epoch stands
            if run.spend(run.validation_rows, training=False):
                run.score = scorer.score(trained.evaluate(request.validation))
            above = scorer.above_trivial(run.score)
    elif above is None:  # it is paused, or its diagnostics failed
        above = scorer.above_trivial(run.score)
    run.evaluation = None
    findings, context = tuple(run.monitor.findings), run.monitor.context
    if context.framework == "unknown":
        context = run.context
    return Trial(
        spec,
        trained,
        run.score,
        findings,
        context,
        {name: list(values) for name, values in run.history.items()},
        run.work,
        run.cut_short,
        interrupted=interrupted,
        above_trivial=bool(above),
        edits=trained.edits,
        granted=run.granted,
        peak=run.peak,
        total=run.total,
        stuck=run.stuck,
        halted=run.halted,
        samples=run.samples,
        partial=run.partial,
        scores=dict(run.scores),
        resumable=paused,
        paused=PausedTrial(trained, run) if paused else None,
    )
