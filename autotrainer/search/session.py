"""One call of `fit` from the training as given to the result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from autotrainer.adapter.backend import Backend, Trainer
from autotrainer.adapter.spec import Evaluation, FitRequest, TrainingSpec
from autotrainer.diagnostics.diagnostics import Diagnostics, lasting
from autotrainer.records.data import Data
from autotrainer.reporting.result import Result
from autotrainer.rule import Rule
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.candidate import Candidate
from autotrainer.search.planner import Planner
from autotrainer.search.preflight import Preflight
from autotrainer.search.repair_loop import RepairLoop, StoppedBy
from autotrainer.training.budget import Budget
from autotrainer.training.progress import Progress
from autotrainer.training.run import ManagedRun
from autotrainer.training.trial import Failure, Trial, TrialRunner, run_trial
from autotrainer.workers.journal import Journal
from autotrainer.workers.rerun import first_look, repeated
from autotrainer.workers.trial_codec import complete
from autotrainer.workers.worker_pool import WorkerPool

__all__ = ["Session"]

logger = logging.getLogger("autotrainer")


@dataclass
class Session:
    """Runs the training as given, then attempts to repair it where it failed.

    Attributes:
        trainer: Runs trainings.
        request: What `fit` was given.
        rules: Rules in force.
        budget: What may be done.
        judge: Scores evaluations.
        planner: Makes steps from findings; None if nothing is to be repaired.
        backend: The framework.
        test: Test data, or None.
        log_dir: Folder for run logs, or None.
        progress: Shows the progress.
        mended: What makes a training that can't be run as given one that can; None where it can.
        records: Takes every ended training, and has those of an earlier call; None where nothing is recorded.
        workers: Number of processes that attempts run in, or ``ray``.
    """

    trainer: Trainer
    request: FitRequest
    rules: Sequence[Rule]
    budget: Budget
    judge: Scorer
    planner: Planner | None
    backend: Backend
    test: Data | None
    log_dir: str | Path | None
    progress: Progress
    mended: Preflight | None = None
    records: Journal | None = None
    workers: int | Literal["ray"] = 1
    _runner: TrialRunner = field(init=False)
    _ahead: WorkerPool | None = field(init=False, default=None)
    _look: Evaluation | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._runner = TrialRunner(self.trainer, self.request, self.rules, self.judge, self.log_dir)
        if self.workers != 1:
            self._ahead = WorkerPool(self.workers, self.backend, self._runner)

    def run(self) -> Result:
        """Return the result.

        Raises:
            Exception: Whatever is raised in the training as given.
            KeyboardInterrupt: With Ctrl-C while the best training, known from a record only, is run again.
        """
        epochs, resumable = self.request.epochs, self.trainer.resumable
        course = RepairLoop(self.planner, self.budget, self.backend.name, epochs, resumable, repeats=True)
        baseline = self._begin(course)
        self._runner.facts = lasting(baseline.context.asked)
        course.begin(baseline, self.judge.metric, self.judge.targets)
        stopped: StoppedBy = "interrupt"
        test = baseline_test = None
        with suppress(KeyboardInterrupt):  # wherever it comes, the best so far is returned
            test = self._baseline_test_score(baseline)
            baseline_test = test if course.mended is None else None
            try:
                stopped = self._repair(course)
            finally:
                course.close()
                if self._ahead is not None:
                    self._ahead.close()
        if course.best.trained is None:
            self._repeat(course.best, baseline)
        with suppress(KeyboardInterrupt):
            test = self._test_score(course.best) if course.best is not baseline else test
        return course.result(stopped, test, baseline_test)

    def _begin(self, course: RepairLoop) -> Trial:
        """Run the training as given; mended first, where it can't be run otherwise."""
        spec = TrainingSpec(self.request.epochs, self.request.seed)
        if self.mended is None:
            return self._baseline(spec)
        try:
            trial = self._baseline(spec.with_edits(self.mended.step.edits))
        except Exception as error:
            logger.info("the training mended by %s failed: %s", ", ".join(self.mended.step.repairs), error)
            if self.mended.wrong is not None:
                raise self.mended.wrong from error
            return self._baseline(spec)
        course.mended = self.mended
        return trial

    def _baseline(self, spec: TrainingSpec) -> Trial:
        """Run the training as given, or take it from the record."""
        found = self._recorded(spec, None)
        if isinstance(found, Trial):
            self.trainer.first = False
            return found
        self.progress.begin("training as given", spec.epochs)
        request = self.request
        needs = frozenset[str]().union(*(rule.needs for rule in self.rules))
        needs |= frozenset() if self.planner is None else self.planner.needs
        asking = Diagnostics(
            self.trainer, self.judge, self.budget, request.train, request.validation, needs, request.seed
        )
        run = ManagedRun(
            spec, self.rules, self.budget, self.judge, request.train, request.validation, baseline=True,
            stops=self.planner is not None, log_dir=self.log_dir, tell=self.progress.tell, facts=asking.of_data(),
        )  # fmt: skip
        trial = run_trial(
            partial(self.trainer.train, spec, run), spec, run, self.judge, request.validation, asking.of_training
        )
        if self.records is not None:
            self.records.add(spec, None, trial, self.budget)
        return trial

    def _repair(self, course: RepairLoop) -> StoppedBy:
        """Attempt to repair a training that failed."""
        while not isinstance(candidate := course.next(), str):
            before = self.budget.spent
            try:
                outcome = self._attempt(course, candidate)
            except KeyboardInterrupt:
                course.fail(candidate, "interrupted by the user", before, interrupted=True)
                return "interrupt"
            if isinstance(outcome, Failure):
                course.fail(candidate, outcome.error, before)
            else:
                course.take(candidate, outcome)
        return candidate

    def _attempt(self, course: RepairLoop, candidate: Candidate) -> Trial | Failure:
        """Run an attempt; or take it from the record, or from another process that has run it ahead of its turn."""
        spec, until = candidate.spec, candidate.epochs
        outcome = self._recorded(spec, until)
        if outcome is not None:
            return outcome
        self.progress.begin(f"attempt {len(course.attempts) + 1}", until or spec.epochs)
        if self._ahead is not None:
            if others := course.alike(candidate):
                trainings = [(c.spec, c.epochs, c.after) for c in (candidate, *others)]
                self._ahead.begin([t for t in trainings if not self._is_recorded(*t[:2])], self.budget)
            outcome = self._ahead.take(spec, until, self.budget)
        if outcome is None:
            outcome = self._runner.run(spec, self.budget, until, self.progress.tell, candidate.after)
        if self.records is not None:
            self.records.add(spec, until, outcome, self.budget)
        return outcome

    # -- records ------------------------------------------------------------------------------------------------------

    def _recorded(self, spec: TrainingSpec, until: int | None) -> Trial | Failure | None:
        """Return a training from the record, charged as it was."""
        found = None if self.records is None else self.records.find(spec, until, self.budget)
        if found is None:
            return None
        self.budget.spend(found.work)
        if isinstance(found, Trial) and found.judged is not None:
            if self._look is None and (look := first_look(self._runner, spec)) is not None:
                self._look = look
                self.judge.select_metric(look)
            complete(found, self._look)
        return found

    def _is_recorded(self, spec: TrainingSpec, until: int | None) -> bool:
        return self.records is not None and self.records.has(spec, until)

    def _repeat(self, best: Trial, baseline: Trial) -> None:
        """Run the best training again, of which only a record is here; it is not charged again."""
        self.progress.begin("the best training again, for its model", best.spec.epochs)
        self.trainer.first = best is baseline
        again = repeated(self._runner, best, self.progress.tell)
        best.trained = again.trained
        new, old = again.judged, best.judged
        if new is not None and old is not None and not np.array_equal(new.value, old.value, equal_nan=True):
            logger.warning(
                "the best training scored %.6g, and %.6g when it was run again: trainings differ from run to run on "
                "this device or with these data; the model returned has the latter score", old.value, new.value,
            )  # fmt: skip
            best.judged = new

    def _baseline_test_score(self, baseline: Trial) -> float | None:
        score = None if self.records is None else self.records.test_score()
        if score is None and self.test is not None and self.judge.metric is not None:
            if baseline.trained is None:  # the crash came before its test
                self._repeat(baseline, baseline)
            score = self._test_score(baseline)
            if self.records is not None:
                self.records.add_test_score(score)
        return score

    def _test_score(self, trial: Trial) -> float | None:
        metric = self.judge.metric
        if self.test is None or metric is None or trial.trained is None:
            return None
        return metric.score(trial.trained.evaluate(self.test)).value
