"""The repair of one training: the baseline, the attempts after it, the best of them, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from autotrainer.output import logger
from autotrainer.records.findings import Finding
from autotrainer.records.task import TargetSummary
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.result import Attempt, Result
from autotrainer.scoring.metrics import Metric
from autotrainer.search.budget_search import BudgetSearch
from autotrainer.search.candidate import Candidate
from autotrainer.search.planner import Planner
from autotrainer.search.preflight import PreflightFix
from autotrainer.search.search import Search
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["RepairLoop", "Until"]

Until = Literal["healthy", "budget"]

_MIN_PARTS = 5
"""An attempt is begun only if the budget allows one epoch of it, or a fifth of it if it has fewer than five epochs."""

_ENOUGH = 0.5
"""Share of the planned epochs after which a training that the budget or the user ended can be called healthy."""

_NO_SCORE = "the budget ended before its first evaluation"


@dataclass
class RepairLoop:
    """Decides what to try next, and records the outcomes.

    Attributes:
        planner: Makes steps from findings; None if nothing is to be repaired.
        budget: Limits the work.
        framework: Name of the backend.
        epochs: Planned epochs of the baseline training.
        resumable: Whether paused trainings can continue.
        repeats: Whether trainings can be repeated with another seed.
        until: When the search ends; see `autotrainer.fit`.
        attempts: Repaired trainings that were tried.
        baseline: The baseline training.
        best: The best training so far.
        plan: What the best training changes, or None.
        stopped_by: Why nothing more is tried; ``interrupt`` until `next` has returned None.
        preflight_fix: The fix without which the original training can't run, and with which the baseline has run; or
            None.
    """

    planner: Planner | None
    budget: Budget
    framework: str
    epochs: int
    resumable: bool = False
    repeats: bool = False
    until: Until = "healthy"
    attempts: list[Attempt] = field(default_factory=list)
    baseline: Trial = field(init=False)
    best: Trial = field(init=False)
    plan: RepairPlan | None = field(init=False, default=None)
    stopped_by: Literal["done", "budget", "interrupt"] = field(init=False, default="interrupt")
    preflight_fix: PreflightFix | None = field(init=False, default=None)
    _metric: Metric | None = field(init=False, default=None)
    _settled: bool = field(init=False, default=False)
    _search: Search | None = field(init=False, default=None)
    _tried: list[tuple[Trial, RepairPlan | None]] = field(init=False, default_factory=list)

    def begin(self, baseline: Trial, metric: Metric | None, targets: TargetSummary, healthy_epochs: int = 0) -> None:
        """Begin with the baseline training.

        Args:
            baseline: The baseline training, which has ended.
            metric: Compares scores; None if there is no score.
            targets: Summary of the training's targets.
            healthy_epochs: Epochs up to the healthy point since which it has got worse, where attempts can begin; or 0.
        """
        if not baseline.halted:
            self.budget.end_baseline()
        self.baseline = self.best = baseline
        self._metric = metric
        if self.preflight_fix is not None:
            self._add_preflight_attempt(self.preflight_fix, baseline)
        complete = not (baseline.interrupted or baseline.cut_short)
        wanted = complete and (not baseline.clean or baseline.halted or self.until == "budget")
        if self.planner is not None and metric is not None and wanted:
            options = (healthy_epochs, self.resumable, self.repeats)
            kind = BudgetSearch if self.until == "budget" else Search
            self._search = kind(self.planner, metric, targets, baseline, self.budget, *options)
        self._tried = [(baseline, self.plan)]

    def settle(self, baseline: Trial) -> None:
        """Go on with the original training as it has ended at last, after the attempt that ran while it was paused."""
        self.budget.end_baseline()
        self._settled = True
        if baseline is self.baseline or self._search is None:
            return
        self.baseline = baseline
        self._tried[0] = (baseline, None)
        if self.attempts:  # else it went on at once
            plan = RepairPlan((), (), (), self.framework, self._layers)
            epochs = len(baseline.history.get("score", ())) if baseline.halted else None
            cost = self.budget.in_trainings(baseline.work)
            score = None if baseline.score is None else baseline.score.value
            self.attempts.append(Attempt(plan, score, None, baseline.findings, cost, epochs, "original"))
        self._search.replace_baseline(baseline)
        self._update_best()
        complete = not (baseline.interrupted or baseline.cut_short)
        if baseline.clean and complete and self.until == "healthy":  # the error has passed
            self._search, self.best, self.plan = None, baseline, None

    def _add_preflight_attempt(self, fix: PreflightFix, trial: Trial) -> None:
        step, edits = fix.step, trial.edits or trial.spec.edits
        self.plan = self._with_places(RepairPlan(step.repairs, edits, step.problems, self.framework, self._layers))
        score = None if trial.score is None else trial.score.value
        error = None if trial.score is not None else _NO_SCORE
        self.attempts.append(Attempt(self.plan, score, error, trial.findings, self.budget.in_trainings(trial.work)))

    def next(self) -> Candidate | None:
        """Return what to try next; None if nothing is, for the reason `stopped_by`."""
        unit = self.budget.unit or 1
        if self.baseline.interrupted:
            self.stopped_by = "interrupt"
        elif self.baseline.cut_short:
            self.stopped_by = "budget"
        elif self._search is None or self._search.finished:
            self.stopped_by = "done"
        elif not self.budget.allows(max(1, unit // max(_MIN_PARTS, self.epochs))):
            self.stopped_by = "budget"
        elif (candidate := self._search.next()) is not None:
            return candidate
        else:
            self.stopped_by = "budget" if self._search.limited else "done"
        return None

    def next_paused(self) -> Candidate | None:
        """Return the attempt to run while the original training is paused, or None."""
        return None if self._search is None else self._search.next_paused()

    @property
    def repaired(self) -> bool:
        """Whether nothing more has to be tried."""
        return self._search is None or self._search.finished

    def rest_of_rung(self, candidate: Candidate) -> list[Candidate]:
        """Return the other pending candidates of a candidate's rung, if any: they run whatever its outcome."""
        return [] if self._search is None else self._search.rest_of_rung(candidate)

    def is_sampled(self, candidate: Candidate) -> bool:
        """Return whether a candidate belongs to a halving."""
        return self._search is not None and self._search.is_sampled(candidate)

    def add(self, candidate: Candidate, trial: Trial) -> None:
        """Record an attempt that has ended; its model is kept only if it may become the result."""
        cost = self.budget.in_trainings(trial.work)
        if candidate.repeat_of is not None:
            self._add_repeat(candidate, trial, cost)
            return
        if trial.score is None:
            trial.close()
            self.fail(candidate, _NO_SCORE, self.budget.spent - trial.work)
            return
        assert self._search is not None, "only a search makes candidates"
        plan = self._plan(candidate, trial)
        epochs = len(trial.history["score"]) if trial.halted else candidate.epochs
        self.attempts.append(Attempt(plan, trial.score.value, None, self._located(trial), cost, epochs))
        self._search.add(candidate, trial)
        if candidate.epochs is not None:
            trial.trained = None
            return
        self._tried.append((trial, plan))
        self._update_best()

    def _add_repeat(self, candidate: Candidate, trial: Trial | None, cost: float, error: str | None = None) -> None:
        """Record a repetition with another seed, after which another training may be the best."""
        assert self._search is not None, "only a search makes candidates"
        plan, score = self._plan(candidate, trial), None
        if trial is not None and trial.score is not None:
            score, trial.trained = trial.score.value, None
        elif error is None:
            error = _NO_SCORE
        verdict = self._search.add_repeat(candidate, trial)
        findings = () if trial is None else self._located(trial)
        self.attempts.append(Attempt(plan, score, error, findings, cost, verdict=verdict.value))
        self._update_best()

    def _update_best(self) -> None:
        """Take the best training over from the search, and drop the models that can't become the result any more."""
        assert self._search is not None, "only a search makes candidates"
        possible = self._search.possible_results()
        for trial, plan in self._tried:
            if trial is self._search.best:
                self.best, self.plan = trial, plan
            if not any(trial is other for other in possible):
                trial.trained = None

    def fail(self, candidate: Candidate, error: str, spent_before: int, *, interrupted: bool = False) -> None:
        """Record a failed attempt.

        Args:
            candidate: The attempt.
            error: Why it failed.
            spent_before: Operations that the budget had spent before it.
            interrupted: Whether it was interrupted: nothing is concluded from it then.
        """
        cost = self.budget.in_trainings(self.budget.spent - spent_before)
        if candidate.repeat_of is not None and not interrupted:
            self._add_repeat(candidate, None, cost, error)
            return
        attempt = Attempt(self._plan(candidate), None, error, (), cost, candidate.epochs)
        self.attempts.append(replace(attempt, verdict="open") if candidate.repeat_of else attempt)
        if self._search is not None and not interrupted:
            self._search.fail(candidate)
        logger.info("attempt with %s failed: %s", ", ".join(candidate.repairs), error)

    def close(self) -> None:
        """Give up all paused trainings."""
        if self._search is not None:
            self._search.close()

    def result(self, test_score: float | None = None, baseline_test_score: float | None = None) -> Result:
        """Return the result.

        Args:
            test_score: Score of the best training on the test data, or None.
            baseline_test_score: Score of the baseline training on the test data, or None.
        """
        best, metric = self.best, self._metric
        status: Literal["healthy", "repaired", "improved", "unrepaired"]
        if best is self.baseline and self.preflight_fix is None:
            status = "healthy" if best.clean and _ran_long_enough(best) else "unrepaired"
        else:
            status = "repaired" if best.clean else "improved"
        trained = best.trained
        assert trained is not None, "only trainings that are no longer the best drop their model"
        return Result(
            status=status,
            stopped_by=self.stopped_by,
            model=trained.model,
            optimizer=trained.optimizer,
            history=best.history,
            score=_score(best),
            baseline_score=_score(self.baseline) if self.preflight_fix is None else float("nan"),
            test_score=test_score,
            baseline_test_score=baseline_test_score,
            findings=list(self.baseline.findings if self.preflight_fix is None else self.preflight_fix.findings),
            plan=self.plan,
            attempts=self.attempts,
            cost=self.budget.in_trainings(self.budget.spent),
            metric=metric.name if metric else "score",
            mode=metric.mode if metric else "max",
            notes=dict(self.planner.notes) if self.planner else {},
            doubtful=self._search is not None and self._search.doubtful,
            epochs=self.epochs,
            baseline_epochs=len(self.baseline.history.get("score", ())) - self.baseline.partial,
            baseline_steps=self.baseline.granted,
            baseline_ended=_end_of(self.baseline, settled=self._settled),
            baseline_charts=self.baseline.charts,
        )

    def _plan(self, candidate: Candidate, trial: Trial | None = None) -> RepairPlan:
        edits = () if trial is None else trial.edits
        plan = self._with_places(candidate.plan(self.framework, edits, self._layers))
        if self.preflight_fix is None:
            return plan
        first = self.preflight_fix.step
        repairs, problems = (*first.repairs, *plan.repairs), (*first.problems, *plan.problems)
        return replace(plan, repairs=tuple(dict.fromkeys(repairs)), problems=tuple(dict.fromkeys(problems)))

    def _with_places(self, plan: RepairPlan) -> RepairPlan:
        """Return a plan with the places in the user's code that cause the problems it answers."""
        places = {f.problem: f.place for f in self.baseline.findings if f.place and f.problem in plan.problems}
        return replace(plan, places=places) if places else plan

    def _located(self, trial: Trial) -> tuple[Finding, ...]:
        """Return the findings of an attempt with the places that the baseline has for the same problems and layers.

        Another process may not see the user's files, so that its monitor does not know the places.
        """
        places = {(f.problem, f.layers[:1]): f.place for f in self.baseline.findings}
        return tuple(replace(f, place=places.get((f.problem, f.layers[:1]), "")) for f in trial.findings)

    @property
    def _layers(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.baseline.context.layers)


def _score(trial: Trial) -> float:
    return trial.score.value if trial.score else float("nan")


def _end_of(baseline: Trial, *, settled: bool) -> Literal["", "stuck", "beaten", "paused"]:
    if baseline.stuck or not baseline.halted:
        return "stuck" if baseline.stuck else ""
    return "beaten" if settled else "paused"


def _ran_long_enough(trial: Trial) -> bool:
    """Return whether a training without errors ran long enough to be called healthy: budget or Ctrl-C may end it."""
    if not (trial.cut_short or trial.interrupted or trial.halted):
        return True
    full_epochs = len(trial.history.get("score", ())) - trial.cut_short  # the budget ends it within an epoch
    return trial.score is not None and full_epochs >= _ENOUGH * trial.spec.epochs
