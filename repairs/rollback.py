"""Return to the best epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import Rollback
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.steps import before_any_step

__all__ = ["RollbackRepair"]

_MIN_EPOCHS = 3
"""Shortest training, in epochs, that has one to return to and one to continue with."""


class RollbackRepair(Repair):
    """Return to the best epoch when the training loss has gone bad, and continue from there with other batches.

    What it does:
        Keeps weights and optimizer state of the best epoch. If an epoch's mean loss is not finite or twice the best,
        restores them, halves the learning rate, and continues with the next epoch, whose batches come in another order.
        In PyTorch, a batch whose loss is not finite also restores them at once, in place of its step; in Keras the
        epoch runs to its end first.

    Why it helps:
        A training that has jumped out of a good region rarely finds its way back. The cause is usually a few batches
        at a learning rate that is a little too high.

    Safety:
        Unsafe only in that it hides a recurring cause. The weights returned are never those of a bad epoch.
        Judged by outcome.

    Cost:
        The discarded epochs; memory for a copy of weights and optimizer.

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
        """Propose it if there are enough epochs."""
        enough = context.planned_epochs is None or context.planned_epochs >= _MIN_EPOCHS
        if enough and not before_any_step(finding):
            yield Proposal(self.name, (Rollback(),), self.fixes[finding.problem])
