"""Train longer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ExtendTraining
from autotrainer.repair import Dimension, Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ExtendTrainingRepair"]

_SHORT = 100
"""Steps of a whole training that are hardly ever enough: the threshold of `too_few_epochs`."""
_FACTORS, _SHORT_FACTORS = (2, 4), (4, 10, 2)
_FOLLOWS = 0.5
"""Chance where something else is the root ÷ that where the length itself is."""


class ExtendTrainingRepair(Repair):
    """Train for more epochs.

    What it does:
        Doubles the epochs, or takes four times as many; ten times as many where the whole training is less than 100
        steps. A constant learning rate goes on, the cosine of another repair stretches.

    Why it helps:
        A training that ends while loss and score still improve gives away what the next epochs would bring: among the
        commonest of real faults, and the simplest to mend.

    Safety:
        Safe where the evidence is that the loss still falls: the best epoch of a longer training is no worse. It costs
        what it trains longer, and the budget counts that. A schedule of the user's that is made for the length given
        is never run beyond it: the reason is told.

    Cost:
        As many times the work as it trains longer.

    References:
        Humbatova et al., Taxonomy of Real Faults in Deep Learning Systems, ICSE 2020; Cao et al., DeepFD, ICSE 2022.
    """

    name = "extend_training"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "too_few_epochs": 0.75,
        "slow_convergence": 0.35,
        "learning_rate_too_low": 0.15,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the shortest extension first; the budget ends those that cost too much."""
        planned = context.planned_epochs
        if planned is None:
            return
        effect = self.fixes[finding.problem]
        if finding.caused_by is not None:
            effect *= _FOLLOWS
        steps = finding.evidence.get("steps", context.planned_steps or _SHORT)
        factors = _FACTORS if steps >= _SHORT else _SHORT_FACTORS
        for rank, factor in enumerate(factors):
            yield Proposal(self.name, (ExtendTraining(factor * planned),), effect * 0.8**rank, cost=float(factor))

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Train longer, or not."""
        planned = context.planned_epochs
        factors = _FACTORS if (context.planned_steps or _SHORT) >= _SHORT else _SHORT_FACTORS
        edits = () if planned is None else tuple((ExtendTraining(k * planned),) for k in sorted(factors))
        return Dimension(self.name, edits) if edits else None
