"""One call of `fit` from the training as given to the result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autotrainer.adapter import FitRequest, Trainer, TrainingSpec
from autotrainer.asking import Questions, lasting
from autotrainer.budget import Budget
from autotrainer.data import Data
from autotrainer.judging import Judge
from autotrainer.metrics import Metric
from autotrainer.plan import RepairPlan
from autotrainer.planner import Planner
from autotrainer.progress import Progress
from autotrainer.result import Attempt, Result
from autotrainer.rule import Rule
from autotrainer.search import Candidate, Search
from autotrainer.trials import ManagedRun, Trial, run_trial

__all__ = ["Session"]

logger = logging.getLogger("autotrainer")

_LEAST_SHARE = 5
"""An attempt is begun only if the budget allows one epoch of it, or a fifth of it where it has less epochs."""

_ENOUGH = 0.5
"""Share of the planned epochs that must be over before a training that was ended from outside can be called healthy."""

StoppedBy = Literal["done", "budget", "interrupt"]


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
        attempts: Repaired trainings that were tried.
        best: The best training so far.
        plan: What it changes, or None.
        layers: Names of the given model's layers.
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
    attempts: list[Attempt] = field(default_factory=list)
    best: Trial = field(init=False)
    plan: RepairPlan | None = field(init=False, default=None)
    layers: tuple[str, ...] = field(init=False, default=())
    facts: dict[str, float] = field(init=False, default_factory=dict)

    def run(self) -> Result:
        """Return the result.

        Raises:
            Exception: Whatever is raised in the training as given.
        """
        baseline = self._train(TrainingSpec(self.request.epochs, self.request.seed), baseline=True)
        self.budget.end_baseline()
        self.best = baseline
        self.facts = lasting(baseline.context.asked)
        self.layers = tuple(layer.name for layer in baseline.context.layers)
        stopped: StoppedBy = "interrupt"
        test = baseline_test = None
        with suppress(KeyboardInterrupt):  # wherever it comes, the best so far is returned
            baseline_test = test = self._test_score(baseline)
            stopped = self._repair(baseline)
            test = self._test_score(self.best) if self.best is not baseline else baseline_test
        return self._result(baseline, stopped, test, baseline_test)

    # -- trainings ------------------------------------------------------------------------------------------------

    def _train(self, spec: TrainingSpec, *, baseline: bool = False) -> Trial:
        title = "training as given" if baseline else f"attempt {len(self.attempts) + 1}"
        self.progress.begin(title, spec.epochs)
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
        )  # fmt: skip
        return run_trial(self.trainer, spec, run, self.judge, request.validation, ask)

    def _repair(self, baseline: Trial) -> StoppedBy:
        """Attempt to repair a training that failed."""
        if baseline.interrupted or baseline.cut_short:
            return "interrupt" if baseline.interrupted else "budget"
        metric = self.judge.metric
        if self.planner is None or metric is None or not baseline.errors:
            return "done"
        search = Search(self.planner, metric, self.judge.targets, baseline)
        while not search.repaired:
            if not self._affords_attempt():
                return "budget"
            candidate = search.next()
            if candidate is None:
                return "done"
            before = self.budget.spent
            try:
                trial = self._train(candidate.spec)
            except KeyboardInterrupt:
                self._failed(candidate, "interrupted by the user", before)
                return "interrupt"
            except Exception as error:  # noqa: BLE001 - whatever goes wrong in an attempt, the best so far is returned
                self._failed(candidate, f"{type(error).__name__}: {error}", before)
                continue
            self._take(search, candidate, trial)
        return "done"

    def _take(self, search: Search, candidate: Candidate, trial: Trial) -> None:
        """Record an attempt that has ended; keep its model only if it is the best."""
        if trial.judged is None or trial.trained is None:
            self._failed(candidate, "the budget ended before its first evaluation", self.budget.spent - trial.work)
            return
        plan = candidate.plan(self.framework, trial.trained.edits, self.layers)
        cost = self.budget.in_trainings(trial.work)
        self.attempts.append(Attempt(plan, trial.judged.value, None, trial.findings, cost))
        if not search.add(candidate, trial):
            trial.trained = None
            return
        last, self.best, self.plan = self.best, trial, plan
        last.trained = None

    def _failed(self, candidate: Candidate, error: str, spent_before: int) -> None:
        cost = self.budget.in_trainings(self.budget.spent - spent_before)
        self.attempts.append(Attempt(candidate.plan(self.framework, (), self.layers), None, error, (), cost))
        logger.info("attempt with %s failed: %s", ", ".join(candidate.repairs), error)

    def _affords_attempt(self) -> bool:
        unit = self.budget.unit or 1
        return self.budget.allows(max(1, unit // max(_LEAST_SHARE, self.request.epochs)))

    # -- the result -----------------------------------------------------------------------------------------------

    def _test_score(self, trial: Trial) -> float | None:
        metric: Metric | None = self.judge.metric
        if self.test is None or metric is None or trial.trained is None:
            return None
        return metric.judge(trial.trained.evaluate(self.test)).value

    def _result(
        self, baseline: Trial, stopped_by: StoppedBy, test_score: float | None, baseline_test_score: float | None
    ) -> Result:
        best = self.best
        status: Literal["healthy", "repaired", "improved", "unrepaired"]
        if best is baseline:
            status = "healthy" if not baseline.errors and _seen_enough(baseline) else "unrepaired"
        else:
            status = "repaired" if best.clean else "improved"
        trained, metric = best.trained, self.judge.metric
        assert trained is not None, "only trainings that are no longer the best drop their model"
        return Result(
            status=status,
            stopped_by=stopped_by,
            model=trained.model,
            optimizer=trained.optimizer,
            history=best.history,
            score=best.judged.value if best.judged else float("nan"),
            baseline_score=baseline.judged.value if baseline.judged else float("nan"),
            test_score=test_score,
            baseline_test_score=baseline_test_score,
            findings=list(baseline.findings),
            plan=self.plan,
            attempts=self.attempts,
            cost=self.budget.in_trainings(self.budget.spent),
            metric=metric.name if metric else "score",
            mode=metric.mode if metric else "max",
            notes=dict(self.planner.notes) if self.planner else {},
            epochs=self.request.epochs,
        )


def _seen_enough(trial: Trial) -> bool:
    """Whether a training without errors was seen for long enough to be called healthy: budget or Ctrl-C may end it."""
    if not (trial.cut_short or trial.interrupted):
        return True
    whole = len(trial.history.get("score", ())) - trial.cut_short  # the last epoch is then not a whole one
    return trial.judged is not None and whole >= _ENOUGH * trial.spec.epochs
