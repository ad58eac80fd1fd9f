"""What a search tries, and what it has tried: a step on top of a training, and the training with its own next steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.edits import Edit
from autotrainer.reporting.plan import RepairPlan
from autotrainer.search.planner import Step
from autotrainer.search.samplers import SampledSettings
from autotrainer.training.trial import Trial

__all__ = ["Candidate", "Node"]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A step on top of a training that was tried.

    Attributes:
        base: That training.
        step: The step.
        spec: Recipe with both.
        proven: Whether the evidence proves it.
        suggestion: Settings that were suggested without evidence, or None.
        epochs: Epochs to train, where that is only to see whether it is worth more; None: to the end.
        after: The same for fewer epochs, which has ended and is worth more; None for one that begins.
        about: The training whose gain it is to tell from luck, by another seed; None for one that is new.
    """

    base: Node
    step: Step
    spec: TrainingSpec
    proven: bool = False
    suggestion: SampledSettings | None = None
    epochs: int | None = None
    after: Trial | None = None
    about: Node | None = None

    @property
    def repairs(self) -> tuple[str, ...]:
        """Names of all repairs, in the order in which they were found."""
        return _joined(self.base.repairs, self.step.repairs)

    @property
    def problems(self) -> tuple[str, ...]:
        """Names of all problems answered."""
        return _joined(self.base.problems, self.step.problems)

    def plan(self, framework: str, edits: Sequence[Edit] = (), layers: tuple[str, ...] = ()) -> RepairPlan:
        """Return the plan, with the edits as they were in force, for a model with these layers."""
        edits = tuple(edits) or self.spec.edits
        return RepairPlan(self.repairs, edits, self.problems, framework, layers, self.spec.start)


@dataclass(eq=False)
class Node:
    """A training that was tried, with the steps that can be taken from there.

    Attributes:
        trial: The training.
        repairs: Names of its repairs.
        problems: Names of the problems that they answer.
        proven: Whether the evidence proves them.
        steps: What can be tried on top of it.
        taken: Number of those that were.
        worse: Whether it is worse than the best by more than noise.
        led: Whether it was the best at a time.
        candidate: What it was tried as; None for the training as given.
    """

    trial: Trial
    repairs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    proven: bool = False
    steps: list[Step] = field(default_factory=list)
    taken: int = 0
    worse: bool = False
    led: bool = False
    candidate: Candidate | None = None


def _joined(first: tuple[str, ...], then: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *then)))
