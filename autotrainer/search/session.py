"""One call of `fit`, from the baseline training to the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autotrainer.adapter.backend import Backend
from autotrainer.adapter.spec import Evaluation, FitRequest, TrainingSpec
from autotrainer.adapter.trainer import Trainer
from autotrainer.diagnostics.diagnostics import HELD_OUT_FACTS, Diagnostics, data_facts
from autotrainer.diagnostics.lr_range_test import range_test_after_repair
from autotrainer.errors import InputError
from autotrainer.output import logger
from autotrainer.records.data import Data, StreamData
from autotrainer.reporting.charts.run_charts import run_charts
from autotrainer.reporting.result import Result
from autotrainer.rule import Rule
from autotrainer.scoring.metrics import RowMetric
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.baseline import Hopeless, KnownCause, Race, is_at_ceiling, race_epochs, with_errors
from autotrainer.search.candidate import Candidate
from autotrainer.search.planner import Planner
from autotrainer.search.preflight import PreflightFix, preflight
from autotrainer.search.repair_loop import RepairLoop, Until
from autotrainer.training.base_run import BaseRun
from autotrainer.training.budget import Budget
from autotrainer.training.progress import Progress
from autotrainer.training.run import ManagedRun
from autotrainer.training.trial import Compare, Failure, Trial, TrialRunner, run_trial
from autotrainer.workers.journal import Journal
from autotrainer.workers.rerun import reference_evaluation, rerun
from autotrainer.workers.trial_codec import restore_targets
from autotrainer.workers.worker_pool import WorkerPool

__all__ = ["Session"]

Halt = Callable[[BaseRun], bool]


@dataclass
class Session:
    """Runs the baseline training, then attempts to repair it if it fails.

    Attributes:
        trainer: Runs trainings.
        request: The request to `fit`.
        rules: Rules in force.
        budget: Limits the work.
        scorer: Scores evaluations.
        planner: Makes steps from findings; None if nothing is to be repaired.
        backend: The framework.
        test: Test data, or None.
        log_dir: Folder for run logs, or None.
        progress: Shows the progress.
        preflight_fix: The fix without which the original training can't run; None if it can.
        journal: Records every ended training, and holds those of an earlier call; None if nothing is recorded.
        workers: Number of processes that attempts run in, or ``ray``.
        until: When the search ends; see `autotrainer.fit`.
    """

    trainer: Trainer
    request: FitRequest
    rules: Sequence[Rule]
    budget: Budget
    scorer: Scorer
    planner: Planner | None
    backend: Backend
    test: Data | None
    log_dir: str | Path | None
    progress: Progress
    preflight_fix: PreflightFix | None = None
    journal: Journal | None = None
    workers: int | Literal["ray"] = 1
    until: Until = "healthy"
    _runner: TrialRunner = field(init=False)
    _diagnostics: Diagnostics = field(init=False)
    _pool: WorkerPool | None = field(init=False, default=None)
    _reference: Evaluation | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._runner = TrialRunner(self.trainer, self.request, self.rules, self.scorer, self.log_dir)
        request = self.request
        needs = frozenset[str]().union(*(rule.needs for rule in self.rules))
        needs |= frozenset() if self.planner is None else self.planner.needs
        if request.judged_on == "training":
            needs -= HELD_OUT_FACTS
        self._diagnostics = Diagnostics(
            self.trainer, self.scorer, self.budget, request.train, request.validation, needs, request.seed
        )
        if "suggested_rate" in needs:
            self._runner.range_test = range_test_after_repair
        if self.workers != 1:
            self._pool = WorkerPool(self.workers, self.backend, self._runner)

    def run(self) -> Result:
        """Return the result.

        Raises:
            Exception: Whatever is raised in the baseline training.
            KeyboardInterrupt: With Ctrl-C while the best training, known only from the journal, is rerun.
        """
        epochs, resumable = self.request.epochs, self.trainer.resumable
        repair_loop = RepairLoop(
            self.planner, self.budget, self.backend.name, epochs, resumable, repeats=True, until=self.until
        )
        baseline = self._begin(repair_loop)
        self._runner.facts = data_facts(baseline.context.asked)
        self._runner.compare = self._comparison()
        repair_loop.begin(baseline, self.scorer.metric, self.scorer.targets)
        test = baseline_test = None
        with suppress(KeyboardInterrupt):  # whenever it comes, the best training so far is returned
            try:
                if baseline.halted and not baseline.interrupted:
                    baseline, test = self._settle(repair_loop, baseline)
                test = self._baseline_test_score(baseline, test)
                baseline_test = test if repair_loop.preflight_fix is None else None
                self._repair(repair_loop)
            finally:
                repair_loop.close()
                if self._pool is not None:
                    self._pool.close()
        if repair_loop.best.trained is None:
            self._rerun(repair_loop.best, baseline)
        with suppress(KeyboardInterrupt):
            if repair_loop.best is not baseline or test is None:
                test = self._test_score(repair_loop.best)
        return replace(repair_loop.result(test, baseline_test), judged_on=self.request.judged_on)

    def _begin(self, repair_loop: RepairLoop) -> Trial:
        """Run the baseline training, with the preflight fix if it can't run without."""
        spec, fix = TrainingSpec(self.request.epochs, self.request.seed), self.preflight_fix
        failure: Exception | None = None
        if fix is None:
            halt = None
            if self.planner is not None and not self.trainer.runs_callbacks:
                halt = KnownCause(self.planner, self.scorer, self.budget)
            try:
                return self._baseline(spec, halt)
            except Exception as error:
                fix, failure = self._fix_after(error), error
                if fix is None:
                    raise
        try:
            trial = self._baseline(spec.with_edits(fix.step.edits))
        except Exception as error:
            logger.info("the training with the preflight fix %s failed: %s", ", ".join(fix.step.repairs), error)
            if failure is not None:
                raise failure from error
            if fix.error is not None:
                raise fix.error from error
            return self._baseline(spec)
        repair_loop.preflight_fix = fix
        return trial

    def _fix_after(self, error: Exception) -> PreflightFix | None:
        """Return the fix of a training that has failed on a stream, whose targets were not read in advance; or None."""
        if self.planner is None or self.trainer.runs_callbacks or not isinstance(self.request.train, StreamData):
            return None
        reason = error if isinstance(error, InputError) else None
        args = (self.backend, self.trainer, self.request, self.rules, self.planner, reason)
        try:
            return preflight(*args, every_target=True)
        except Exception as other:  # noqa: BLE001 - the first error is the one to report
            logger.info("no fix was looked for, as the data can't be read: %s", other)
            return None

    def _settle(self, repair_loop: RepairLoop, baseline: Trial) -> tuple[Trial, float | None]:
        """Run the first repair of a paused baseline, and the baseline again unless it is expected to stay behind.

        Returns:
            The baseline as it has ended at last, and its score on the test data, if there are any and its model is in
            this process: it may be dropped afterwards.
        """
        context, spec, attempt = baseline.context, baseline.spec, None
        test = self._test_score(baseline)
        if (candidate := repair_loop.next_paused()) is not None:
            self._runner.compare = partial(self._diagnostics.compare_attempt, context)
            with self.budget.holding(1):
                outcome = self._try(repair_loop, candidate, paused=True)
            if isinstance(outcome, Trial):
                attempt = outcome
                self._diagnostics.restore(attempt.context, context)
        race = None if attempt is None else Race(attempt, baseline, self.scorer)
        beaten = attempt is not None and is_at_ceiling(attempt, baseline, self.scorer.metric)
        if not beaten and (race is None or not race.won):
            goes_on = self._baseline(spec, race, again=True)
            baseline = with_errors(goes_on, baseline.findings) if goes_on.halted else goes_on
            test = self._test_score(baseline)
        repair_loop.settle(baseline)
        if baseline.halted and not repair_loop.repaired:
            work = self._diagnostics.fit(context)  # they are needed in any case
            self.budget.spend(work if self.budget.allows(work) else 0)
        if (comparison := self._diagnostics.comparison) is not None:
            self._runner.facts = {**self._runner.facts, **comparison.facts}
        self._runner.compare = self._comparison()
        return baseline, test

    def _comparison(self) -> Compare | None:
        comparison = self._diagnostics.comparison
        return None if comparison is None else comparison.compare

    def _baseline(self, spec: TrainingSpec, halt: Halt | None = None, *, again: bool = False) -> Trial:
        """Run the baseline training, or take it from the journal.

        Args:
            spec: Its recipe.
            halt: Decides whether it is halted, or None.
            again: Whether it was paused before.
        """
        key = spec.epochs if again else None
        recorded, diagnostics = self._recorded(spec, key), self._diagnostics
        if isinstance(recorded, Trial):
            self.trainer.first = False
            diagnostics.restore(recorded.context)
            return recorded
        self.progress.begin("baseline training", spec.epochs)
        request = self.request
        run = ManagedRun(
            spec, self.rules, self.budget, self.scorer, request.train, request.validation, baseline=True,
            stop_if_stuck=self.planner is not None, log_dir=self.log_dir, on_epoch=self.progress.update,
            facts=diagnostics.of_data(), halt=halt, checkpoints=race_epochs(spec.epochs),
        )  # fmt: skip
        train = partial(self.trainer.train, spec, run)
        trial = run_trial(train, spec, run, self.scorer, request, diagnostics.of_training)
        trial.charts = run_charts(run.monitor.history, trial.context, trial.findings)
        if self.journal is not None:
            self.journal.add(spec, key, trial, self.budget)
        return trial

    def _repair(self, repair_loop: RepairLoop) -> None:
        """Attempt to repair a failed training."""
        while (candidate := repair_loop.next()) is not None:
            self._try(repair_loop, candidate)

    def _try(self, repair_loop: RepairLoop, candidate: Candidate, *, paused: bool = False) -> Trial | Failure:
        """Run an attempt and record it.

        Args:
            repair_loop: Has made it.
            candidate: The attempt.
            paused: Whether the baseline is paused meanwhile.
        """
        before = self.budget.spent
        try:
            outcome = self._attempt(repair_loop, candidate, paused=paused)
        except KeyboardInterrupt:
            repair_loop.fail(candidate, "interrupted by the user", before, interrupted=True)
            raise
        if isinstance(outcome, Failure):
            repair_loop.fail(candidate, outcome.error, before)
        else:
            repair_loop.add(candidate, outcome)
        return outcome

    def _attempt(self, repair_loop: RepairLoop, candidate: Candidate, *, paused: bool = False) -> Trial | Failure:
        """Run an attempt; or take it from the journal, or from another process that ran it ahead of its turn."""
        spec, until, options = candidate.spec, candidate.epochs, dict[str, Any]()
        outcome = self._recorded(spec, until)
        if outcome is not None:
            return outcome
        self.progress.begin(f"attempt {len(repair_loop.attempts) + 1}", until or spec.epochs)
        others = repair_loop.rest_of_rung(candidate)
        by_rows = isinstance(self.scorer.metric, RowMetric)
        if not (until or candidate.repeat_of or repair_loop.is_sampled(candidate)) and (by_rows or paused):
            options = {"checkpoints": race_epochs(self.request.epochs)}
            if by_rows:
                options["halt"] = Hopeless(repair_loop.best, self.scorer)
        if self._pool is not None:
            if others:
                trainings = [(c.spec, c.epochs, c.shorter) for c in (candidate, *others)]
                self._pool.submit([t for t in trainings if not self._is_recorded(*t[:2])], self.budget)
            outcome = self._pool.take(spec, until, self.budget)
        if outcome is None:
            outcome = self._runner.run(spec, self.budget, until, self.progress.update, candidate.shorter, **options)
        if self.journal is not None:
            self.journal.add(spec, until, outcome, self.budget)
        return outcome

    # -- the journal --------------------------------------------------------------------------------------------------

    def _recorded(self, spec: TrainingSpec, until: int | None) -> Trial | Failure | None:
        """Return a training from the journal, charged as it was."""
        outcome = None if self.journal is None else self.journal.find(spec, until, self.budget)
        if outcome is None:
            return None
        self.budget.spend(outcome.work)
        if isinstance(outcome, Trial) and outcome.score is not None:
            if self._reference is None and (evaluation := reference_evaluation(self._runner, spec)) is not None:
                self._reference = evaluation
                self.scorer.score(evaluation)  # it decides on the metric, and on the constant prediction to beat
            restore_targets(outcome, self._reference)
        return outcome

    def _is_recorded(self, spec: TrainingSpec, until: int | None) -> bool:
        return self.journal is not None and self.journal.has(spec, until)

    def _rerun(self, best: Trial, baseline: Trial) -> None:
        """Run the best training again to get its model, which is not in this process; it is not charged again."""
        self.progress.begin("rerun of the best training, for its model", best.spec.epochs)
        self.trainer.first = best is baseline
        trial = rerun(self._runner, best, self.progress.update)
        best.trained = trial.trained
        new, old = trial.score, best.score
        if new is not None and old is not None and not np.array_equal(new.value, old.value, equal_nan=True):
            logger.warning(
                "the best training scored %.6g, but %.6g when it was rerun: trainings are not deterministic on this "
                "device or with these data; the model returned has the latter score", old.value, new.value,
            )  # fmt: skip
            best.score = new

    def _baseline_test_score(self, baseline: Trial, score: float | None) -> float | None:
        """Return the baseline's score on the test data: as known, from the journal, or from its model."""
        recorded = None if self.journal is None else self.journal.test_score()
        if recorded is not None:
            return recorded
        if self.test is not None and self.scorer.metric is not None:
            if score is None and baseline.trained is None:  # the earlier call ended before its test
                self._rerun(baseline, baseline)
            score = self._test_score(baseline) if score is None else score
            if self.journal is not None:
                self.journal.add_test_score(score)
        return score

    def _test_score(self, trial: Trial) -> float | None:
        metric = self.scorer.metric
        if self.test is None or metric is None or trial.trained is None:
            return None
        return metric.score(trial.trained.evaluate(self.test)).value
