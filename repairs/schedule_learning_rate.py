"""Decay the learning rate along a cosine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import DecayRate
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ScheduleLearningRateRepair"]

_LEAST = 3
"""Epochs with which a schedule matters."""


class ScheduleLearningRateRepair(Repair):
    """Let the learning rate fall along half a cosine, to nothing at the last step.

    What it does:
        Keeps the rate set at the start and lowers it step by step. Where the finding is that the schedule given ends
        the training long before its end, the cosine takes its place.

    Why it helps:
        A rate that is right at first is too high near a minimum, where the iterates bounce around it: a falling rate
        averages that noise away. And it never vanishes before the training is over.

    Safety:
        Unsafe only in that a training that has far to go is slowed in its last third. A schedule of the user's stays,
        unless it is what the evidence blames. Judged by outcome.

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
        """Propose a cosine; in place of the schedule given only where that is what is wrong."""
        instead = finding.problem == "wrong_schedule"
        if context.optimizer.scheduled and not instead:
            return
        if context.planned_epochs is None or context.planned_epochs >= _LEAST:
            yield Proposal(self.name, (DecayRate(instead=instead),), self.fixes[finding.problem])
