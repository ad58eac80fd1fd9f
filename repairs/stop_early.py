"""Stop at the best epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import StopEarly
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["StopEarlyRepair"]


class StopEarlyRepair(Repair):
    """Stop when the validation loss has not improved for a while, and keep the best weights.

    What it does:
        Stops after a tenth of the planned epochs (at least 3) without a better validation loss, and restores the
        weights of the best epoch.

    Why it helps:
        After that epoch the model learns the noise of the training data.

    Safety:
        Unsafe only in that the validation data choose the epoch: report the score on other data.

    Cost:
        Less than a full training; memory for one copy of the weights.

    References:
        Prechelt 1998, Early stopping - but when?; AUTOTRAINER (ICSE 2021).
    """

    name = "stop_early"
    fixes: ClassVar[dict[str, float]] = {"overfitting": 0.6, "exploding_gradient": 0.1, "oscillating_loss": 0.15}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose a patience that fits the length of the training."""
        patience = max(3, (context.planned_epochs or 50) // 10)
        yield Proposal(self.name, (StopEarly(patience),), self.fixes[finding.problem], cost=0.8)
