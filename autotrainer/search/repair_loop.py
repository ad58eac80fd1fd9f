"""The course of one repair: the training as given, the attempts after it, the best of them, and the result."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Literal

from autotrainer.records.task import TargetSummary
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.result import Attempt, Result
from autotrainer.scoring.metrics import Metric
from autotrainer.search.candidate import Candidate
from autotrainer.search.planner import Planner
from autotrainer.search.preflight import Preflight
from autotrainer.search.search import Search
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["RepairLoop", "StoppedBy"]

logger = logging.getLogger("autotrainer")

_LEAST_SHARE = 5
"""An attempt is begun only if the budget allows one epoch of it, or a fifth of it where it has less epochs."""

_ENOUGH = 0.5
"""Share of the planned epochs that must be over before a training that was ended from outside can be called healthy."""

_NO_SCORE = "the budget ended before its first evaluation"

StoppedBy = Literal["done", "budget", "interrupt"]


@dataclass
class RepairLoop:
    """Says what to try next, and keeps what came of it.

    Attributes:
        planner: Makes steps from findings; None if nothing is to be repaired.
        budget: What may be done.
        framework: Name of the backend.
        epochs: Planned epochs of the training as given.
        attempts: Repaired trainings that were tried.
        baseline: The training as given.
        best: The best training so far.
        plan: What it changes, or None.
        mended: What made a training that can't be run as given one that can: the baseline has it then; or None.
        resumable: Whether trainings can go on where they were paused.
        repeats: Whether trainings can be repeated with another seed.
    """

    planner: Planner | None
    budget: Budget
    framework: str
    epochs: int
    resumable: bool = False
    repeats: bool = False
    attempts: list[Attempt] = field(default_factory=list)
    baseline: Trial = field(init=False)
    best: Trial = field(init=False)
    plan: RepairPlan | None = field(init=False, default=None)
    mended: Preflight | None = field(init=False, default=None)
    _metric: Metric | None = field(init=False, default=None)
    _search: Search | None = field(init=False, default=None)
    _tried: list[tuple[Trial, RepairPlan | None]] = field(init=False, default_factory=list)

    def begin(self, baseline: Trial, metric: Metric | None, targets: TargetSummary, healthy: int = 0) -> None:
        """Take the training as given.

        Args:
            baseline: The training as given, ended.
            metric: Compares trainings; None if there is no score.
            targets: Targets of the training.
            healthy: Epochs up to the healthy point from which it has got worse, where attempts can begin; or 0.
        """
        self.budget.end_baseline()
        self.baseline = self.best = baseline
        self._metric = metric
        if self.mended is not None:
            self._take_mended(baseline)
        failed = bool(baseline.errors) and not (baseline.interrupted or baseline.cut_short)
        if self.planner is not None and metric is not None and failed:
            options = (healthy, self.resumable, self.repeats)
            self._search = Search(self.planner, metric, targets, baseline, self.budget, *options)
        self._tried = [(baseline, self.plan)]

    def _take_mended(self, trial: Trial) -> None:
        assert self.mended is not None
        step, edits = self.mended.step, trial.edits or trial.spec.edits
        self.plan = self._placed(RepairPlan(step.repairs, edits, step.problems, self.framework, self._layers))
        score = None if trial.judged is None else trial.judged.value
        error = None if trial.judged is not None else _NO_SCORE
        self.attempts.append(Attempt(self.plan, score, error, trial.findings, self.budget.in_trainings(trial.work)))

    def next(self) -> Candidate | StoppedBy:
        """Return what to try next, or why nothing is."""
        if self.baseline.interrupted:
            return "interrupt"
        if self.baseline.cut_short:
            return "budget"
        if self._search is None or self._search.repaired:
            return "done"
        unit = self.budget.unit or 1
        if not self.budget.allows(max(1, unit // max(_LEAST_SHARE, self.epochs))):
            return "budget"
        return self._search.next() or "done"

    def alike(self, candidate: Candidate) -> list[Candidate]:
        """Return what is tried next, whatever comes of a candidate."""
        return [] if self._search is None else self._search.alike(candidate)

    def take(self, candidate: Candidate, trial: Trial) -> None:
        """Record an attempt that has ended; its model is kept only if it may be the result."""
        cost = self.budget.in_trainings(trial.work)
        if candidate.about is not None:
            self._settle(candidate, trial, cost)
            return
        if trial.judged is None:
            trial.close()
            self.fail(candidate, _NO_SCORE, self.budget.spent - trial.work)
            return
        assert self._search is not None, "only a search makes candidates"
        plan = self._plan(candidate, trial)
        self.attempts.append(Attempt(plan, trial.judged.value, None, trial.findings, cost, candidate.epochs))
        self._search.add(candidate, trial)
        if candidate.epochs is not None:
            trial.trained = None
            return
        self._tried.append((trial, plan))
        self._follow()

    def _settle(self, candidate: Candidate, again: Trial | None, cost: float, error: str | None = None) -> None:
        """Record a repetition, after which another training may be the best."""
        assert self._search is not None, "only a search makes candidates"
        plan, score = self._plan(candidate, again), None
        if again is not None and again.judged is not None:
            score, again.trained = again.judged.value, None
        elif error is None:
            error = _NO_SCORE
        verdict = self._search.settle(candidate, again)
        findings = () if again is None else again.findings
        self.attempts.append(Attempt(plan, score, error, findings, cost, verdict=verdict.value))
        self._follow()

    def _follow(self) -> None:
        """Take over who is the best, and drop the models that can't be the result any more."""
        assert self._search is not None, "only a search makes candidates"
        wanted = self._search.wanted()
        for trial, plan in self._tried:
            if trial is self._search.best:
                self.best, self.plan = trial, plan
            if not any(trial is other for other in wanted):
                trial.trained = None

    def fail(self, candidate: Candidate, error: str, spent_before: int, *, interrupted: bool = False) -> None:
        """Record an attempt that came to nothing; of one that was interrupted nothing is concluded."""
        cost = self.budget.in_trainings(self.budget.spent - spent_before)
        if candidate.about is not None and not interrupted:
            self._settle(candidate, None, cost, error)
            return
        plan = self._plan(candidate)
        self.attempts.append(Attempt(plan, None, error, (), cost, candidate.epochs, "open" if candidate.about else ""))
        if self._search is not None and not interrupted:
            self._search.fail(candidate)
        logger.info("attempt with %s failed: %s", ", ".join(candidate.repairs), error)

    def close(self) -> None:
        """Let go of trainings that are paused."""
        if self._search is not None:
            self._search.close()

    def result(
        self, stopped_by: StoppedBy, test_score: float | None = None, baseline_test_score: float | None = None
    ) -> Result:
        """Return what all of it came to.

        Args:
            stopped_by: Why nothing more is tried.
            test_score: Score of the best training on test data, or None.
            baseline_test_score: That of the training as given.
        """
        best, metric = self.best, self._metric
        status: Literal["healthy", "repaired", "improved", "unrepaired"]
        if best is self.baseline and self.mended is None:
            status = "healthy" if not best.errors and _seen_enough(best) else "unrepaired"
        else:
            status = "repaired" if best.clean else "improved"
        trained = best.trained
        assert trained is not None, "only trainings that are no longer the best drop their model"
        return Result(
            status=status,
            stopped_by=stopped_by,
            model=trained.model,
            optimizer=trained.optimizer,
            history=best.history,
            score=_score(best),
            baseline_score=_score(self.baseline) if self.mended is None else float("nan"),
            test_score=test_score,
            baseline_test_score=baseline_test_score,
            findings=list(self.baseline.findings if self.mended is None else self.mended.findings),
            plan=self.plan,
            attempts=self.attempts,
            cost=self.budget.in_trainings(self.budget.spent),
            metric=metric.name if metric else "score",
            mode=metric.mode if metric else "max",
            notes=dict(self.planner.notes) if self.planner else {},
            doubtful=self._search is not None and self._search.doubtful,
            epochs=self.epochs,
        )

    def _plan(self, candidate: Candidate, trial: Trial | None = None) -> RepairPlan:
        edits = () if trial is None else trial.edits
        plan = self._placed(candidate.plan(self.framework, edits, self._layers))
        if self.mended is None:
            return plan
        first = self.mended.step
        repairs, problems = (*first.repairs, *plan.repairs), (*first.problems, *plan.problems)
        return replace(plan, repairs=tuple(dict.fromkeys(repairs)), problems=tuple(dict.fromkeys(problems)))

    def _placed(self, plan: RepairPlan) -> RepairPlan:
        """Return a plan with the places in the user's code that the problems it answers point to."""
        places = {f.problem: f.place for f in self.baseline.findings if f.place and f.problem in plan.problems}
        return replace(plan, places=places) if places else plan

    @property
    def _layers(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.baseline.context.layers)


def _score(trial: Trial) -> float:
    return trial.judged.value if trial.judged else float("nan")


def _seen_enough(trial: Trial) -> bool:
    """Whether a training without errors was seen for long enough to be called healthy: budget or Ctrl-C may end it."""
    if not (trial.cut_short or trial.interrupted):
        return True
    whole = len(trial.history.get("score", ())) - trial.cut_short  # the last epoch is then not a whole one
    return trial.judged is not None and whole >= _ENOUGH * trial.spec.epochs
