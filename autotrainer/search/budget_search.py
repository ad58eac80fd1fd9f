"""The search with ``until="budget"``: it goes on after a repair for as long as there is something to gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from autotrainer.search.candidate import Candidate, Node
from autotrainer.search.planner import Step, as_errors
from autotrainer.search.refinement import Refinement, refinements, smaller_plans, still_improves
from autotrainer.search.search import Search
from autotrainer.search.seed_repeats import Verdict
from autotrainer.search.selection import Selection, at_ceiling
from autotrainer.training.trial import Trial

__all__ = ["BudgetSearch"]


class BudgetSearch(Search):
    """Continues a `Search` after its best training works: after a repair, or if the baseline has no error.

    Until then it does what `Search` does, and refines the best training only if nothing else is left. From then on two
    kinds of attempts take turns, each as soon as it has cost no more than the other: refinements of the best training
    (see `refinement`), and the halving search of settings on top of it, longer ones only where its curve still rises.
    After each attempt the best training is chosen anew (see `selection`). The search ends when the budget does, when
    everything has been tried, or at the ceiling of the metric, there once no smaller plan is as good.

    Args:
        *args: Those of `Search`.
        **options: Those of `Search`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._last: tuple[bool, int] | None = None
        self._work = {True: 0, False: 0}
        super().__init__(*args, **options)
        self._root = self._nodes[0]
        self._selection = Selection(self._metric, self._root, self._seed_repeats)
        self._works = self.baseline.clean

    def replace_baseline(self, baseline: Trial) -> None:
        """Take the original training at a later point; see `Search.replace_baseline`."""
        super().replace_baseline(baseline)
        self._selection = Selection(self._metric, self._root, self._seed_repeats)
        self._works = baseline.clean
        self._choose()

    @property
    def finished(self) -> bool:
        """Whether the search ends whatever is left to try: never, `next` decides."""
        return False

    def add(self, candidate: Candidate, trial: Trial) -> bool:
        """Record an attempt that has a score; return whether it is the best now."""
        super().add(candidate, trial)
        self._choose()
        return self.best is trial

    def add_repeat(self, candidate: Candidate, trial: Trial | None) -> Verdict:
        """Record a repetition with another seed; see `Search.add_repeat`."""
        verdict = super().add_repeat(candidate, trial)
        self._choose()
        return verdict

    def possible_results(self) -> list[Trial]:
        """Return the trainings that may still become the result: their models are needed."""
        chosen = self._selection.choose(self._nodes) if self._works else []
        return [*super().possible_results(), *(node.trial for node in chosen)]

    def _choose(self) -> None:
        """Choose the best training anew, from the first one that works on."""
        self._works |= self.best.clean
        if self._works:
            best = next(iter(self._selection.choose(self._nodes)), self._root)
            if best is not self._best:
                self._set_best(best)
        possible = self.possible_results()
        for node in self._nodes:
            node.given_up |= not any(node.trial is trial for trial in possible)

    def _next_new(self) -> Candidate | None:
        if self._last is not None:
            refined, spent = self._last
            self._work[refined] += self._budget.spent - spent
            self._last = None
        if not self.best.clean:
            candidate = super()._next_new()
            if candidate is None and self._best is not self._root:
                self._works = True
                candidate = self._next_refined()
            return candidate
        if at_ceiling(self._metric, self.best.score):
            smaller = [] if self._best is self._root else smaller_plans(self._best, self._root)
            return self._first(smaller)
        order: list[Callable[[], Candidate | None]] = [self._next_refined, self._next_near_best]
        if self._halving.running or self._work[True] > self._work[False]:
            order.reverse()
        for source in (*order, self._next_by_evidence_within_budget):
            before = self._budget.spent
            if (candidate := source()) is not None:
                self._last = (source == self._next_refined, before)
                return candidate
        return None

    def _next_refined(self) -> Candidate | None:
        plans = refinements(self._best, self._helpful(), self._root, self._planner, self._metric.sign)
        return self._first(plans)

    def _helpful(self) -> list[Node]:
        """Return the trainings that are better than the baseline, the best first."""
        helpful = [node for node in self._nodes if self._selection.helps(node)]
        return sorted(helpful, key=lambda node: -self._gain(node.trial))

    def _first(self, plans: Iterable[Refinement]) -> Candidate | None:
        """Return the first plan that has not been tried and that the budget allows."""
        for plan in plans:
            if self._key(self.baseline.spec.with_edits(plan.step.edits).edits) in self._tried:
                continue
            if not self._affords(plan.cost):
                self.limited = True
                continue
            return self._new_candidate(self._root, plan.step)
        return None

    def _next_near_best(self) -> Candidate | None:
        """Return the next candidate of a halving search on top of the best training.

        Where the budget does not allow another one as long as that, it is on top of the next best that is shorter.
        """
        bases = self._affordable_bases()
        epochs = max(self.baseline.spec.epochs, *(node.trial.spec.epochs for node in bases))
        cost = max(1.0, self._relative_cost * self._length(epochs))
        longest = math.inf if still_improves(self.best, self._metric.sign) else self.best.spec.epochs

        def new_candidate(base: Node, step: Step) -> Candidate | None:
            length = base.trial.spec.with_edits(step.edits).epochs
            fits = length <= longest and self._affords(self._length(length))
            return self._new_candidate(base, step, from_start=True) if fits else None

        by_evidence = partial(self._next_by_evidence_within_budget, from_start=True)
        candidate = self._halving.next(by_evidence, new_candidate, bases, cost, epochs)
        self.limited |= self._best not in bases or (candidate is None and self._halving.limited)
        return candidate

    def _affordable_bases(self) -> list[Node]:
        """Return the trainings to search near: the best and the proven one, or what the budget allows instead."""
        proven = next((node for node in self._nodes if node.proven), self._best)
        preferred = [self._best, proven]
        affordable = [node for node in preferred if self._affords(self._length(node.trial.spec.epochs))]
        if not affordable:
            others = [*self._helpful(), self._root]
            affordable = [node for node in others if self._affords(self._length(node.trial.spec.epochs))][:1]
        return affordable or preferred

    def _next_by_evidence_within_budget(self, *, from_start: bool = False) -> Candidate | None:
        for node in self._nodes:
            length = self._length(node.trial.spec.epochs)
            affordable = [step for step in node.steps if self._affords(step.cost * length)]
            self.limited |= len(affordable) < len(node.steps)
            node.steps = affordable
        return self._next_by_evidence(from_start=from_start)

    @property
    def _relative_cost(self) -> float:
        """Work of the best training, in baseline trainings."""
        return self._budget.in_trainings(self.best.total or self.best.work)

    def _length(self, epochs: int) -> float:
        """Return so many epochs relative to those of the best training."""
        return epochs / self.best.spec.epochs

    def _affords(self, cost: float) -> bool:
        """Return whether the budget allows a training with so many times the work of the best one."""
        return self._budget.left >= cost * self._relative_cost

    def _plan_steps(self, node: Node, base: Node | None = None) -> None:
        """Also plan what else answers the baseline's findings, on top of a training that has no error."""
        super()._plan_steps(node, base)
        if base is not None and not node.steps and node.trial.clean:
            findings = as_errors(self.baseline.findings)
            steps = self._planner.steps(findings, node.trial.context, self._targets, node.trial.spec.edits)
            node.steps = [step for step in steps if not set(step.repairs) <= set(node.repairs)]
