"""What a search tries and has tried: a step on top of a training, and a training with the steps that can follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.edits import Edit
from autotrainer.reporting.plan import RepairPlan
from autotrainer.search.halving.samplers import SampledSettings
from autotrainer.search.planner import Step
from autotrainer.training.trial import Trial

__all__ = ["Candidate", "Node", "penalty"]

_PENALTY = {"best": 0.0, "proven": -3.5, "fewer": 0.0, "other": 4.0, "worse": 12.0}
"""Steps by which a training to build on is behind the best one, by its outcome."""
_DEPTH = 4.0
"""The same for each edit that it has more than the best one."""
_UNCOVERED = 1.5
"""The same, behind the training that it was built on, for one that has been ended by a fault hidden there."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A step on top of a training that was tried.

    Attributes:
        base: That training.
        step: The step.
        spec: Recipe with both.
        proven: Whether the evidence proves it.
        settings: The sampled settings that it tries without evidence, or None.
        epochs: Epochs to train on a rung of a halving; None for a full training.
        shorter: The same training on the rung before, which has ended and is worth more epochs; or None.
        repeat_of: The training that it repeats with another seed, to tell its gain from luck; None for a new one.
    """

    base: Node
    step: Step
    spec: TrainingSpec
    proven: bool = False
    settings: SampledSettings | None = None
    epochs: int | None = None
    shorter: Trial | None = None
    repeat_of: Node | None = None

    @property
    def repairs(self) -> tuple[str, ...]:
        """Names of all repairs, in the order in which they were added."""
        return _merged(self.base.repairs, self.step.repairs)

    @property
    def problems(self) -> tuple[str, ...]:
        """Names of all problems that they answer."""
        return _merged(self.base.problems, self.step.problems)

    def plan(self, framework: str, edits: Sequence[Edit] = (), layers: tuple[str, ...] = ()) -> RepairPlan:
        """Return the plan for a model with these layers.

        Args:
            framework: Name of the backend.
            edits: The edits as they were in force; without any, those of the recipe.
            layers: Names of the model's layers.
        """
        edits = tuple(edits) or self.spec.edits
        return RepairPlan(self.repairs, edits, self.problems, framework, layers, self.spec.start)


@dataclass(eq=False)
class Node:
    """A training that was tried, with the steps that can follow it.

    Attributes:
        trial: The training.
        repairs: Names of its repairs.
        problems: Names of the problems that they answer.
        proven: Whether the evidence proves them.
        steps: Steps that can still be tried on top of it.
        tried: Number of steps that were tried.
        worse: Whether it is worse than the best by more than noise.
        was_best: Whether it has been the best training.
        candidate: The candidate that it was tried as; None for the baseline.
        given_up: Whether its model is no longer kept, so that it can't become the result.
    """

    trial: Trial
    repairs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    proven: bool = False
    steps: list[Step] = field(default_factory=list)
    tried: int = 0
    worse: bool = False
    was_best: bool = False
    candidate: Candidate | None = None
    given_up: bool = False

    @property
    def repair_of(self) -> dict[Edit, str]:
        """The name of the repair of each of its edits."""
        if self.candidate is None:
            return {}
        return {**self.candidate.base.repair_of, **self.candidate.step.repair_of}


def _merged(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def penalty(node: Node, best: Node, nodes: Sequence[Node]) -> float:
    """Return by how many steps a training to build on is behind the best one.

    Args:
        node: The training.
        best: The best training.
        nodes: All trainings, the baseline first.
    """
    baseline = nodes[0]
    if node is best:
        # Proven repairs are needed in any case: build on them.
        superseded = node is baseline and any(n.proven and not n.worse for n in nodes)
        return _PENALTY["other" if superseded else "best"]
    if node.proven and not node.worse:
        return _PENALTY["proven"]
    if node is baseline:
        return _PENALTY["other"]
    if node.candidate is not None and _uncovers(node, node.candidate):
        return penalty(node.candidate.base, best, nodes) + _UNCOVERED
    fewer = len(node.trial.errors) < len(best.trial.errors)
    depth = _DEPTH * max(0, len(node.trial.spec.edits) - len(best.trial.spec.edits))
    return _PENALTY["worse" if node.worse else "fewer" if fewer else "other"] + depth


def _uncovers(node: Node, candidate: Candidate) -> bool:
    """Return whether a step has removed what it answers, and a fault that was hidden until then has ended the training.

    Such a training was too short to tell what the step is worth. A fault that is answered by the same kind of edit
    was not hidden: the step went too far.
    """
    if not node.trial.stuck or not node.steps:
        return False
    left = {finding.problem for finding in node.trial.findings}
    before = {finding.problem for finding in candidate.base.trial.findings}
    roots = {finding.problem for finding in node.trial.errors if finding.caused_by is None}
    kinds = {type(edit) for edit in candidate.step.edits}
    return (
        bool(roots)
        and not roots & before
        and not left & set(candidate.step.problems)
        and not any(type(edit) in kinds for edit in node.steps[0].edits)
    )
