"""Go back to the last good epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import Rollback
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.steps import before_any_step

__all__ = ["RollbackRepair"]

_LEAST = 3
"""Epochs with which there is one to go back to and one to go on with."""


class RollbackRepair(Repair):
    """Go back to the last good epoch where the training loss has gone bad, and on from there with other batches.

    What it does:
        Keeps weights and optimizer of the best epoch. Where an epoch's mean loss is not finite or twice the best one,
        puts them back, halves the learning rate, and goes on with the next epoch: its batches come in another order.

    Why it helps:
        A training that has jumped out of a good region seldom finds back. What led there is as a rule a few batches
        at a rate that is a little too high.

    Safety:
        Unsafe only in that it hides a cause that comes again. The weights returned are never those of a bad epoch.
        Judged by outcome.

    Cost:
        The epochs that are thrown away; memory for a copy of weights and optimizer.

    References:
        Chowdhery et al., PaLM (2204.02311), section 5.1 (restart before the spike, skip the batches).
    """

    name = "rollback"
    fixes: ClassVar[dict[str, float]] = {
        "divergence": 0.4,
        "loss_spike": 0.3,
        "nonfinite": 0.35,
        "exploding_gradient": 0.2,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it where there are epochs to go back by."""
        enough = context.planned_epochs is None or context.planned_epochs >= _LEAST
        if enough and not before_any_step(finding):
            yield Proposal(self.name, (Rollback(),), self.fixes[finding.problem])
