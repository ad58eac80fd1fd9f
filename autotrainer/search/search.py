"""The search for a repaired training: which step to try next on top of which training, and who is the best.

First what the evidence says; where that has cost two trainings and nothing is repaired, settings are searched without
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
from autotrainer.search.candidate import Candidate, Node
from autotrainer.search.halving_search import HalvingSearch
from autotrainer.search.planner import Planner, Step
from autotrainer.search.seed_repeats import SeedRepeats, Verdict
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["Search"]

_PENALTY = {"best": 0.0, "proven": -3.5, "fewer": 0.0, "other": 4.0, "worse": 12.0}
"""How many steps a training to build on is behind the best one, by what it came to."""
_DEPTH = 4.0
"""The same for each edit that it has more than the best one."""
_EVIDENCE = 2.0
"""Work, in trainings as given, that attempts by evidence may cost before settings are searched without it."""
_IN_VAIN = 0.5
"""Work, in trainings as given, that attempts from the healthy point may cost without having helped."""


class Search:
    """Holds the trainings tried so far and chooses what to try next. Deterministic.

    First the proven repairs of all findings together. Then the steps of the best training so far, in the planner's
    order; trainings that were no better take their turn where the best one's first steps have failed, since real
    trainings often have two faults of which neither alone is worth anything mended.

    Where the training as given has got worse since a healthy point, edits that a running training can take begin there.
    Once such attempts have cost half a training in vain, all begin at the start, the same edits too: nothing says that
    the point was as healthy as it looked.

    Where that is wanted, a gain that may be luck is looked at with other seeds (see `seed_repeats`) before it
    counts as a repair, and before the search ends. What is refuted leaves its place to the best of those that led
    before.

    Args:
        planner: Makes steps from findings.
        metric: Compares.
        targets: Targets of the training.
        baseline: The training as given.
        budget: What may be done.
        healthy: Epochs of the training as given up to the healthy point from which it has got worse; 0 without one.
        resumable: Whether a training can go on where it was paused.
        repeats: Whether trainings can be repeated with another seed.
    """

    def __init__(
        self,
        planner: Planner,
        metric: Metric,
        targets: TargetSummary,
        baseline: Trial,
        budget: Budget,
        healthy: int = 0,
        resumable: bool = False,
        repeats: bool = False,
    ) -> None:
        self._planner, self._metric, self._targets, self._budget = planner, metric, targets, budget
        self._healthy = healthy
        self._repetitions = SeedRepeats(metric, baseline, budget) if repeats else None
        self._in_vain = 0.0
        self._missed: list[Candidate] = []
        self.baseline = baseline
        self._tried = {self._key(())}
        root = Node(baseline, led=True)
        self._nodes = [root]
        self._best = root
        self._by_evidence = 0.0
        dimensions = planner.dimensions(baseline.findings, baseline.context)
        self._screening = HalvingSearch(dimensions, metric, baseline, budget, resumable=resumable)
        self._plan_steps(root)

    @property
    def best(self) -> Trial:
        """The best training so far."""
        return self._best.trial

    @property
    def repaired(self) -> bool:
        """Whether the best is better than the training as given by more than noise, and has no error left."""
        clean = self._best.trial is not self.baseline and self._best.trial.clean
        return clean and (self._repetitions is None or self._repetitions.next(self.best) is None)

    def next(self) -> Candidate | None:
        """Return what to try next, or None if there is nothing left."""
        if self._best is not self._nodes[0]:
            asked = self._asked(self._best) if self.best.clean else None
        else:
            by_gain = sorted(self._nodes, key=lambda node: -self._gain(node.trial))
            asked = next(filter(None, map(self._asked, by_gain)), None)
        return asked or self._found() or self._asked(self._best)

    def _found(self) -> Candidate | None:
        if len(self._tried) == 1:
            step = self._planner.proven(self.baseline.findings, self.baseline.context, self._targets)
            candidate = self._take(self._nodes[0], step, proven=True) if step is not None else None
            if candidate is not None:
                return candidate
        if self._by_evidence < _EVIDENCE:
            return self._listed() or self._searched()
        return self._searched() or self._listed()

    def _listed(self, *, whole: bool = False) -> Candidate | None:
        """Return the next step by evidence; ``whole`` has it begin at the start."""
        while True:
            open_nodes = [node for node in self._nodes if node.steps]
            if not open_nodes and self._missed:
                self._leave_point()
                continue
            if not open_nodes:
                return None
            node = min(open_nodes, key=lambda n: (n.taken + self._penalty(n), self._nodes.index(n)))
            candidate = self._take(node, node.steps.pop(0), whole=whole)
            if candidate is not None:
                node.taken += 1
                return candidate

    def _searched(self) -> Candidate | None:
        """Return the next training of the search of settings."""
        bases = (next((n for n in self._nodes if n.proven), self._nodes[0]), self._best)
        return self._screening.next(partial(self._listed, whole=True), partial(self._take, whole=True), bases)

    def alike(self, candidate: Candidate) -> list[Candidate]:
        """Return what is tried next, whatever comes of a candidate: the rest of the rung that it is on, if any."""
        return self._screening.alike(candidate)

    def close(self) -> None:
        """Let go of trainings that are paused."""
        self._screening.close()

    def add(self, candidate: Candidate, trial: Trial) -> bool:
        """Take in an attempt that has a score.

        Returns:
            Whether it is the best now.
        """
        if not self._screening.tell(candidate, trial):
            self._by_evidence += self._budget.in_trainings(trial.work)
        if candidate.epochs is not None:
            return False
        won = self._wins(trial)
        if candidate.spec.start and not won:
            self._miss(candidate, trial.work)
        node = Node(trial, candidate.repairs, candidate.problems, candidate.proven, candidate=candidate)
        self._nodes.append(node)
        self._plan_steps(node, candidate.base)
        if not won:
            node.worse = self._is_worse(node)
            return False
        self._lead(node)
        node.steps.sort(key=lambda step: not _continues(step, candidate.step))
        return True

    def fail(self, candidate: Candidate) -> None:
        """Take in an attempt that came to nothing."""
        self._screening.tell(candidate, None)
        if candidate.spec.start:
            self._miss(candidate, 0)

    def _asked(self, node: Node) -> Candidate | None:
        """Return the training that tells more of a training's gain, if that is wanted."""
        spec = None if self._repetitions is None else self._repetitions.next(node.trial)
        if spec is None:
            return None
        given = Candidate(self._nodes[0], Step((), (), ()), spec, about=node)
        if node.candidate is None or spec.edits == self.baseline.spec.edits:
            return given
        return replace(given, base=node.candidate.base, step=node.candidate.step)

    def settle(self, candidate: Candidate, again: Trial | None) -> Verdict:
        """Take in a repetition, which may change who is the best.

        Args:
            candidate: What `next` returned.
            again: What came of it; None if it has failed.

        Returns:
            What is known of the gain in question.
        """
        repetitions, node = self._repetitions, candidate.about
        assert repetitions is not None, "only with them is something repeated"
        assert node is not None, "only a repetition is about another training"
        verdict = repetitions.take(node.trial, candidate.spec, again)
        if verdict is Verdict.HOLDS:
            self._lead(node)
        elif verdict is Verdict.REFUTED and node is self._best:
            others = (n for n in self._nodes[1:] if n.led and not repetitions.refuted(n.trial))
            self._lead(max(others, key=lambda n: (n.trial.clean, self._gain(n.trial)), default=self._nodes[0]))
        return verdict

    def wanted(self) -> list[Trial]:
        """Return the trainings whose models may yet be the result."""
        asked = [] if self._repetitions is None else [n for n in self._nodes if self._repetitions.next(n.trial)]
        if self._best is self._nodes[0]:
            return [self.best, *(node.trial for node in asked)]
        return [node.trial for node in self._nodes if node.led] if self._best in asked else [self.best]

    @property
    def doubtful(self) -> bool:
        """Whether the gain of the best is not sure, and was not looked at again."""
        return self._repetitions is not None and self._repetitions.doubtful(self.best)

    def _lead(self, node: Node) -> None:
        self._best, node.led = node, True
        for other in self._nodes:
            other.worse = self._is_worse(other)

    def _gain(self, trial: Trial) -> float:
        new, given = trial.judged, self.baseline.judged
        return -math.inf if new is None or given is None else self._metric.gain(new, given)

    def _miss(self, candidate: Candidate, work: int) -> None:
        """Take in an attempt from the healthy point that has not helped."""
        self._missed.append(candidate)
        self._in_vain += self._budget.in_trainings(work)
        if self._in_vain > _IN_VAIN:
            self._leave_point()

    def _leave_point(self) -> None:
        """Have all attempts begin at the start from now on: next the first that has not helped, the others last."""
        self._healthy = 0
        for candidate in self._missed:
            steps, first = candidate.base.steps, candidate is self._missed[0]
            self._tried.discard(self._key(candidate.spec.edits))
            steps.insert(0 if first else len(steps), candidate.step)
            candidate.base.taken -= first and not candidate.proven
        self._missed.clear()

    def _wins(self, trial: Trial) -> bool:
        new, old, given = trial.judged, self.best.judged, self.baseline.judged
        if new is None:
            return False
        if old is None or given is None:
            return True
        if self._metric.better(new, old):
            return self.best is self.baseline or self._metric.better(new, given)
        cleaner = trial.clean and not self.best.clean
        return cleaner and self._metric.better(new, given) and self._metric.gain(new, old) >= 0

    def _take(self, base: Node, step: Step, *, proven: bool = False, whole: bool = False) -> Candidate | None:
        spec = base.trial.spec.with_edits(step.edits)
        key = self._key(spec.edits)
        if key in self._tried:
            return None
        self._tried.add(key)
        start = 0 if whole or not self._is_live(spec) else self._healthy
        return Candidate(base, step, replace(spec, start=start), proven)

    def _is_live(self, spec: TrainingSpec) -> bool:
        """Say whether a running training can take all edits; asked only where that matters."""
        levels = (self._planner.supports(edit).level for edit in spec.edits)
        return bool(self._healthy) and all(level is SupportLevel.LIVE for level in levels)

    def _key(self, edits: Sequence[Edit]) -> tuple[str, ...]:
        """Return what makes a recipe another one: its edits in any order, but not the learning rate as given."""
        swapped = any(isinstance(edit, SwapOptimizer) for edit in edits)
        given = self.baseline.context.optimizer.learning_rate
        counted = [
            edit
            for edit in edits
            if swapped or not (isinstance(edit, SetLearningRate) and math.isclose(edit.value, given, rel_tol=1e-4))
        ]
        return tuple(sorted(repr(edit) for edit in counted))

    def _plan_steps(self, node: Node, base: Node | None = None) -> None:
        """Plan from the node's own findings, or from those of its base where they lead nowhere: nothing is repaired."""
        trial = node.trial
        node.steps = self._planner.steps(trial.findings, trial.context, self._targets)
        if base is not None and not node.steps and not trial.clean:
            node.steps = self._planner.steps(base.trial.findings, trial.context, self._targets)

    def _penalty(self, node: Node) -> float:
        if node is self._best:
            # What the evidence proves is to be mended anyway: build on that.
            mended = node.trial is self.baseline and any(n.proven and not n.worse for n in self._nodes)
            return _PENALTY["other" if mended else "best"]
        if node.proven and not node.worse:
            return _PENALTY["proven"]
        if node.trial is self.baseline:
            return _PENALTY["other"]
        fewer = len(node.trial.errors) < len(self.best.errors)
        depth = _DEPTH * max(0, len(node.trial.spec.edits) - len(self.best.spec.edits))
        return _PENALTY["worse" if node.worse else "fewer" if fewer else "other"] + depth

    def _is_worse(self, node: Node) -> bool:
        mine, best = node.trial.judged, self.best.judged
        return mine is None or (best is not None and self._metric.better(best, mine))


def _continues(step: Step, before: Step) -> bool:
    """Say whether a step goes on with the training setting that has just helped: the next rung of the ladder."""
    return step.repairs == before.repairs and all(edit.change == 0 for edit in step.edits)
