"""Reduce the learning rate on plateaus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ReduceOnPlateau
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ReduceOnPlateauRepair"]


class ReduceOnPlateauRepair(Repair):
    """Reduce the learning rate when the loss stops falling.

    What it does:
        Halves the learning rate after a twentieth of the planned epochs (at least 2) without improvement, down to a
        hundredth of the initial rate.

    Why it helps:
        A learning rate that is right at first is too high near a minimum: the weights bounce around it.

    Safety:
        Unsafe only in that a rate lowered too early slows the rest. The lower limit is relative to the rate in use.

    Cost:
        None.

    References:
        Bengio 2012 (1206.5533), section 3.1; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "reduce_on_plateau"
    fixes: ClassVar[dict[str, float]] = {"oscillating_loss": 0.45, "learning_rate_too_high": 0.3}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose one schedule, with a patience that fits the length of the training."""
        epochs = context.planned_epochs or 100
        if epochs >= 6:
            patience = max(2, epochs // 20)
            yield Proposal(self.name, (ReduceOnPlateau(0.5, patience, 0.01),), self.fixes[finding.problem])
