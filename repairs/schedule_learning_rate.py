"""Decay the learning rate along a cosine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import DecayRate
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ScheduleLearningRateRepair"]

_REFINED = 0.4
"""Probability that a cosine is better for a training that works at a constant rate."""
_MIN_EPOCHS = 3
"""Shortest training, in epochs, in which a schedule matters."""


class ScheduleLearningRateRepair(Repair):
    """Decay the learning rate along half a cosine, to zero at the last step.

    What it does:
        Starts at the present rate and lowers it step by step. If the finding is that the user's schedule reaches
        negligible rates long before the end of the training, the cosine replaces it. With ``until="budget"``, also in a
        training that works at a constant rate.

    Why it helps:
        A rate that is right at first is too high near a minimum, where the weights bounce around it: a falling rate
        averages that noise away. And it does not vanish before the training is over.

    Safety:
        Unsafe only in that a training that still has far to go is slowed down in its last third. A user's schedule
        stays, unless it is the problem itself. Judged by outcome.

    Cost:
        None.

    References:
        Loshchilov and Hutter, ICLR 2017 (1608.03983); Bengio 2012 (1206.5533), section 3.1; Defazio et al. 2023
        (2310.07831).
    """

    name = "schedule_learning_rate"
    fixes: ClassVar[dict[str, float]] = {
        "oscillating_loss": 0.4,
        "learning_rate_too_high": 0.25,
        "wrong_schedule": 0.7,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose a cosine; it replaces a user's schedule only if that is the problem."""
        instead = finding.problem == "wrong_schedule"
        if context.optimizer.scheduled and not instead:
            return
        if context.planned_epochs is None or context.planned_epochs >= _MIN_EPOCHS:
            yield Proposal(self.name, (DecayRate(instead=instead),), self.fixes[finding.problem])

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        """Propose a cosine where no schedule is in use."""
        if not context.optimizer.scheduled and (context.planned_epochs or 0) >= _MIN_EPOCHS:
            yield Proposal(self.name, (DecayRate(),), _REFINED)
