"""One call of `fit` from the training as given to the result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from autotrainer.adapter import Trainer
from autotrainer.asking import Questions, lasting
from autotrainer.budget import Budget
from autotrainer.course import Course, StoppedBy
from autotrainer.data import Data
from autotrainer.exchange import FitRequest, TrainingSpec
from autotrainer.judging import Judge
from autotrainer.managed_run import ManagedRun
from autotrainer.mending import Mended
from autotrainer.planner import Planner
from autotrainer.progress import Progress
from autotrainer.result import Result
from autotrainer.rule import Rule
from autotrainer.trials import Trial, run_trial

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
        framework: Name of the backend.
        test: Test data, or None.
        log_dir: Folder for run logs, or None.
        progress: Shows the progress.
        mended: What makes a training that can't be run as given one that can; None where it can.
        facts: What is known of the data: see `autotrainer.asking`.
    """

    trainer: Trainer
    request: FitRequest
    rules: Sequence[Rule]
    budget: Budget
    judge: Judge
    planner: Planner | None
    framework: str
    test: Data | None
    log_dir: str | Path | None
    progress: Progress
    mended: Mended | None = None
    facts: dict[str, float] = field(init=False, default_factory=dict)

    def run(self) -> Result:
        """Return the result.

        Raises:
            Exception: Whatever is raised in the training as given.
        """
        course = Course(self.planner, self.budget, self.framework, self.request.epochs)
        baseline = self._begin(course)
        self.facts = lasting(baseline.context.asked)
        course.begin(baseline, self.judge.metric, self.judge.targets)
        stopped: StoppedBy = "interrupt"
        test = baseline_test = None
        with suppress(KeyboardInterrupt):  # wherever it comes, the best so far is returned
            test = self._test_score(baseline)
            baseline_test = test if course.mended is None else None
            stopped = self._repair(course)
            test = self._test_score(course.best) if course.best is not baseline else test
        return course.result(stopped, test, baseline_test)

    def _begin(self, course: Course) -> Trial:
        """Run the training as given; mended first, where it can't be run otherwise."""
        spec = TrainingSpec(self.request.epochs, self.request.seed)
        if self.mended is None:
            return self._train(spec)
        try:
            trial = self._train(spec.with_edits(self.mended.step.edits))
        except Exception as error:
            logger.info("the training mended by %s failed: %s", ", ".join(self.mended.step.repairs), error)
            if self.mended.wrong is not None:
                raise self.mended.wrong from error
            return self._train(spec)
        course.mended = self.mended
        return trial

    def _train(self, spec: TrainingSpec, attempt: int | None = None, until: int | None = None) -> Trial:
        """Run one training, the one as given where it is no attempt."""
        baseline = attempt is None
        self.progress.begin("training as given" if baseline else f"attempt {attempt}", until or spec.epochs)
        request = self.request
        ask = None
        if baseline:
            needs = frozenset[str]().union(*(rule.needs for rule in self.rules))
            needs |= frozenset() if self.planner is None else self.planner.needs
            asking = Questions(
                self.trainer, self.judge, self.budget, request.train, request.validation, needs, request.seed
            )
            self.facts, ask = asking.of_data(), asking.of_training
        run = ManagedRun(
            spec, self.rules, self.budget, self.judge, request.train, request.validation, baseline=baseline,
            stops=self.planner is not None, log_dir=self.log_dir, tell=self.progress.tell, facts=self.facts,
            until=until,
        )  # fmt: skip
        return run_trial(self.trainer, spec, run, self.judge, request.validation, ask)

    def _repair(self, course: Course) -> StoppedBy:
        """Attempt to repair a training that failed."""
        while not isinstance(candidate := course.next(), str):
            before = self.budget.spent
            try:
                trial = self._train(candidate.spec, len(course.attempts) + 1, candidate.epochs)
            except KeyboardInterrupt:
                course.fail(candidate, "interrupted by the user", before)
                return "interrupt"
            except Exception as error:  # noqa: BLE001 - whatever goes wrong in an attempt, the best so far is returned
                course.fail(candidate, f"{type(error).__name__}: {error}", before)
                continue
            course.take(candidate, trial)
        return candidate

    def _test_score(self, trial: Trial) -> float | None:
        metric = self.judge.metric
        if self.test is None or metric is None or trial.trained is None:
            return None
        return metric.judge(trial.trained.evaluate(self.test)).value
