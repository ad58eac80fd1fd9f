"""The search for a repaired training: which step to try next on top of which training, and which is the best.

First the evidence decides. If that has cost two trainings and nothing is repaired, settings are searched without
evidence, by successive halving.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from autotrainer.adapter.spec import SupportLevel, TrainingSpec
from autotrainer.edits import Edit, SetLearningRate, SwapOptimizer
from autotrainer.records.task import TargetSummary
from autotrainer.scoring.metrics import Metric
from autotrainer.search.candidate import Candidate, Node, penalty
from autotrainer.search.halving.halving_search import HalvingSearch
from autotrainer.search.planner import Planner, Step, as_errors
from autotrainer.search.seed_repeats import SeedRepeats, Verdict
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["Search"]

_EVIDENCE = 2.0
"""Work, in baseline trainings, that attempts by evidence may cost before settings are searched without it."""
_BELOW_SIMPLE_MODEL = "worse_than_simple_model"
"""The problem of an outcome that is no better than a constant prediction, or clearly below simple models."""
_WASTED = 0.5
"""Work, in baseline trainings, that attempts from the healthy point may cost without having helped."""


class Search:
    """Holds the trainings tried so far and chooses what to try next. Deterministic.

    The proven repairs of all findings together come first. Then come the steps of the best training so far, in the
    planner's order; trainings that were no better get their turn when the best one's first steps have failed, because
    real trainings often have two faults, neither of which is worth repairing alone. One in which a step has removed a
    fault, and another one, hidden until then, ended it, gets its turn among the first.

    If the baseline has got worse since a healthy point, edits that a running training can take begin there. Once such
    attempts have cost half a training without a gain, all begin at the start, including the same edits again: the
    point may not have been as healthy as it looked.

    With `repeats`, a gain that may be luck is re-evaluated with other seeds (see `seed_repeats`) before it counts as a
    repair, and before the search ends. A training whose gain is refuted gives way to the best of those that led before.

    Args:
        planner: Makes steps from findings.
        metric: Compares scores.
        targets: Summary of the training's targets.
        baseline: The baseline training.
        budget: Limits the work.
        healthy_epochs: Epochs of the baseline up to the healthy point since which it has got worse; 0 without one.
        resumable: Whether paused trainings can continue.
        repeats: Whether trainings can be repeated with another seed.

    Attributes:
        baseline: The baseline training.
        limited: Whether something to try was left out because the budget does not allow it.
    """

    def __init__(
        self,
        planner: Planner,
        metric: Metric,
        targets: TargetSummary,
        baseline: Trial,
        budget: Budget,
        healthy_epochs: int = 0,
        resumable: bool = False,
        repeats: bool = False,
    ) -> None:
        self._planner, self._metric, self._targets, self._budget = planner, metric, targets, budget
        self._healthy_epochs, self._resumable = healthy_epochs, resumable
        self._seed_repeats = SeedRepeats(metric, baseline, budget) if repeats else None
        self._wasted = 0.0
        self._from_healthy_point: list[Candidate] = []
        self.baseline, self.limited = baseline, False
        self._tried = {self._key(())}
        self._begun = False
        root = Node(baseline, was_best=True)
        self._nodes = [root]
        self._best = root
        self._spent_by_evidence = 0.0
        self._halving = self._make_halving(baseline)
        self._plan_steps(root)

    def _make_halving(self, baseline: Trial) -> HalvingSearch:
        suspect = not baseline.above_trivial or any(f.problem == _BELOW_SIMPLE_MODEL for f in baseline.errors)
        # An error in the data is left to the user, but not an outcome that anything may have caused.
        findings = None if suspect or not baseline.errors else baseline.findings
        dimensions = self._planner.dimensions(findings, baseline.context)
        return HalvingSearch(dimensions, self._metric, baseline, self._budget, resumable=self._resumable)

    def replace_baseline(self, baseline: Trial) -> None:
        """Take the original training at a later point in place of that where it was paused, and compare anew."""
        root, others = self._nodes[0], self._nodes[1:]
        self.baseline = root.trial = baseline
        self._begun = False
        if self._seed_repeats is not None:
            self._seed_repeats = SeedRepeats(self._metric, baseline, self._budget)
        self._halving = self._make_halving(baseline)
        self._plan_steps(root)
        self._best = root
        for node in others:
            node.was_best = self._wins(node.trial)
            if node.was_best:
                self._best = node
        self._set_best(self._best)

    @property
    def best(self) -> Trial:
        """The best training so far."""
        return self._best.trial

    @property
    def repaired(self) -> bool:
        """Whether the best training is better than the baseline by more than noise, and has no error left."""
        clean = self._best.trial is not self.baseline and self._best.trial.clean
        return clean and (self._seed_repeats is None or self._seed_repeats.next(self.best) is None)

    @property
    def finished(self) -> bool:
        """Whether the search ends whatever is left to try."""
        return self.repaired

    def next(self) -> Candidate | None:
        """Return what to try next, or None if nothing is left."""
        if self._best is not self._nodes[0]:
            repeat = self._next_repeat(self._best) if self.best.clean else None
        else:
            by_gain = sorted(self._nodes, key=lambda node: -self._gain(node.trial))
            repeat = next(filter(None, map(self._next_repeat, by_gain)), None)
        return repeat or self._next_new() or self._next_repeat(self._best)

    def _next_new(self) -> Candidate | None:
        if (candidate := self.next_proven()) is not None:
            return candidate
        if self._spent_by_evidence < _EVIDENCE:
            return self._next_by_evidence() or self._next_sampled()
        return self._next_sampled() or self._next_by_evidence()

    def next_proven(self) -> Candidate | None:
        """Return the combination of all repairs that the evidence proves; None if there is none, or it was tried."""
        if self._begun:
            return None
        self._begun = True
        step = self._planner.proven(self.baseline.findings, self.baseline.context, self._targets)
        return self._new_candidate(self._nodes[0], step, proven=True) if step is not None else None

    def next_paused(self) -> Candidate | None:
        """Return what to try while the original is paused: proven repairs, else the first step by its evidence."""
        return self.next_proven() or self._next_by_evidence()

    def _next_by_evidence(self, *, from_start: bool = False) -> Candidate | None:
        while True:
            open_nodes = [node for node in self._nodes if node.steps]
            if not open_nodes and self._from_healthy_point:
                self._abandon_healthy_point()
                continue
            if not open_nodes:
                return None
            node = min(open_nodes, key=lambda n: (n.tried + penalty(n, self._best, self._nodes), self._nodes.index(n)))
            candidate = self._new_candidate(node, node.steps.pop(0), from_start=from_start)
            if candidate is not None:
                node.tried += 1
                return candidate

    def _next_sampled(self) -> Candidate | None:
        bases = (next((n for n in self._nodes if n.proven), self._nodes[0]), self._best)
        by_evidence = partial(self._next_by_evidence, from_start=True)
        candidate = self._halving.next(by_evidence, partial(self._new_candidate, from_start=True), bases)
        self.limited |= candidate is None and self._halving.limited
        return candidate

    def rest_of_rung(self, candidate: Candidate) -> list[Candidate]:
        """Return the other pending candidates of a candidate's rung, if any: they run whatever its outcome."""
        return self._halving.rest_of_rung(candidate)

    def is_sampled(self, candidate: Candidate) -> bool:
        """Return whether a candidate belongs to a halving."""
        return self._halving.contains(candidate)

    def close(self) -> None:
        """Give up all paused trainings."""
        self._halving.close()

    def add(self, candidate: Candidate, trial: Trial) -> bool:
        """Record an attempt that has a score.

        Returns:
            Whether it is the best now.
        """
        if not self._halving.add(candidate, trial):
            self._spent_by_evidence += self._budget.in_trainings(trial.work)
        if self._seed_repeats is not None:
            self._seed_repeats.count()
        if candidate.epochs is not None:
            return False
        wins = self._wins(trial)
        if candidate.spec.start and not wins:
            self._add_wasted(candidate, trial.work)
        node = Node(trial, candidate.repairs, candidate.problems, candidate.proven, candidate=candidate)
        self._nodes.append(node)
        self._plan_steps(node, candidate.base)
        if not wins:
            node.worse = self._is_worse(node)
            return False
        self._set_best(node)
        node.steps.sort(key=lambda step: not _continues(step, candidate.step))
        return True

    def fail(self, candidate: Candidate) -> None:
        """Record an attempt that has failed."""
        self._halving.add(candidate, None)
        if candidate.spec.start:
            self._add_wasted(candidate, 0)

    def _next_repeat(self, node: Node) -> Candidate | None:
        """Return the training that tells more about a training's gain, if that is open."""
        spec = None if self._seed_repeats is None else self._seed_repeats.next(node.trial)
        if spec is None:
            return None
        of_baseline = Candidate(self._nodes[0], Step((), (), ()), spec, repeat_of=node)
        if node.candidate is None or spec.edits == self.baseline.spec.edits:
            return of_baseline
        return replace(of_baseline, base=node.candidate.base, step=node.candidate.step)

    def add_repeat(self, candidate: Candidate, trial: Trial | None) -> Verdict:
        """Record a repetition with another seed, which may change the best training.

        Args:
            candidate: What `next` returned.
            trial: Its outcome; None if it has failed.

        Returns:
            The verdict on the gain in question.
        """
        repeats, node = self._seed_repeats, candidate.repeat_of
        assert repeats is not None, "only with seed repeats is something repeated"
        assert node is not None, "only a repetition has a training that it repeats"
        verdict = repeats.add(node.trial, candidate.spec, trial)
        if verdict is Verdict.HOLDS:
            self._set_best(node)
        elif verdict is Verdict.REFUTED and node is self._best:
            others = (n for n in self._nodes[1:] if n.was_best and not repeats.refuted(n.trial))
            self._set_best(max(others, key=lambda n: (n.trial.clean, self._gain(n.trial)), default=self._nodes[0]))
        return verdict

    def possible_results(self) -> list[Trial]:
        """Return the trainings that may still become the result: their models are needed."""
        repeats = self._seed_repeats
        open_nodes = [] if repeats is None else [n for n in self._nodes if repeats.next(n.trial)]
        if self._best is self._nodes[0]:
            return [self.best, *(node.trial for node in open_nodes)]
        return [node.trial for node in self._nodes if node.was_best] if self._best in open_nodes else [self.best]

    @property
    def doubtful(self) -> bool:
        """Whether the gain of the best training is not certain and has not been re-evaluated."""
        return self._seed_repeats is not None and self._seed_repeats.doubtful(self.best)

    def _set_best(self, node: Node) -> None:
        self._best, node.was_best = node, True
        for other in self._nodes:
            other.worse = self._is_worse(other)

    def _gain(self, trial: Trial) -> float:
        new, baseline = trial.score, self.baseline.score
        return -math.inf if new is None or baseline is None else self._metric.gain(new, baseline)

    def _add_wasted(self, candidate: Candidate, work: int) -> None:
        self._from_healthy_point.append(candidate)
        self._wasted += self._budget.in_trainings(work)
        if self._wasted > _WASTED:
            self._abandon_healthy_point()

    def _abandon_healthy_point(self) -> None:
        """Begin all attempts at the start from now on: the first that has not helped is next, the others are last."""
        self._healthy_epochs = 0
        for candidate in self._from_healthy_point:
            steps, first = candidate.base.steps, candidate is self._from_healthy_point[0]
            self._tried.discard(self._key(candidate.spec.edits))
            steps.insert(0 if first else len(steps), candidate.step)
            candidate.base.tried -= first and not candidate.proven
        self._from_healthy_point.clear()

    def _wins(self, trial: Trial) -> bool:
        new, best, baseline = trial.score, self.best.score, self.baseline.score
        if new is None:
            return False
        if best is None or baseline is None:
            return True
        if self.best is self.baseline and self._seed_repeats is not None and self._seed_repeats.holds(trial):
            return True
        if self._metric.better(new, best):
            return self.best is self.baseline or self._metric.better(new, baseline)
        cleaner = trial.clean and not self.best.clean
        return cleaner and self._metric.better(new, baseline) and self._metric.gain(new, best) >= 0

    def _new_candidate(
        self, base: Node, step: Step, *, proven: bool = False, from_start: bool = False
    ) -> Candidate | None:
        spec = base.trial.spec.with_edits(step.edits)
        key = self._key(spec.edits)
        if key in self._tried:
            return None
        self._tried.add(key)
        start = 0 if from_start or not self._is_live(spec) else self._healthy_epochs
        return Candidate(base, step, replace(spec, start=start), proven)

    def _is_live(self, spec: TrainingSpec) -> bool:
        """Return whether a running training can take all edits; evaluated only if there is a healthy point."""
        levels = (self._planner.supports(edit).level for edit in spec.edits)
        return bool(self._healthy_epochs) and all(level is SupportLevel.LIVE for level in levels)

    def _key(self, edits: Sequence[Edit]) -> frozenset[Edit]:
        """Return what distinguishes recipes: their edits in any order, without the baseline's own learning rate."""
        swapped = any(isinstance(edit, SwapOptimizer) for edit in edits)
        rate = self.baseline.context.optimizer.learning_rate
        return frozenset(
            edit
            for edit in edits
            if swapped or not (isinstance(edit, SetLearningRate) and math.isclose(edit.value, rate, rel_tol=1e-4))
        )

    def _plan_steps(self, node: Node, base: Node | None = None) -> None:
        """Plan from a training's own findings, or from those of its base if they give no step and it is not clean.

        The baseline's warnings count if it has no error: then its outcome is suspect, or there is a budget to spend.
        """
        trial = node.trial
        before = trial.spec.edits
        node.steps = self._planner.steps(trial.findings, trial.context, self._targets, before)
        if base is not None and not node.steps and not trial.clean:
            node.steps = self._planner.steps(base.trial.findings, trial.context, self._targets, before)
        elif base is None and not trial.errors:
            node.steps = self._planner.steps(as_errors(trial.findings), trial.context, self._targets)

    def _is_worse(self, node: Node) -> bool:
        score, best = node.trial.score, self.best.score
        return score is None or (best is not None and self._metric.better(best, score))


def _continues(step: Step, before: Step) -> bool:
    """Return whether a step continues with the training setting that has just helped: the next rung of its ladder."""
    return step.repairs == before.repairs and all(edit.change == 0 for edit in step.edits)
