"""Clear the optimizer state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ResetOptimizerState
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ResetOptimizerStateRepair"]

_PARTS = 10
"""Parts of the training that start with an empty state."""


class ResetOptimizerStateRepair(Repair):
    """Clear the optimizer state that stems from other gradients.

    What it does:
        Starts with moments at zero, even if the optimizer has been used before, and clears them again at the start of
        each epoch, or after every tenth of the training.

    Why it helps:
        Moments of past gradients, from before an explosion or from other data, distort the next thousand steps. Once
        cleared, they describe the present gradients after a few steps.

    Safety:
        Unsafe: the first steps after each reset are noisy, like the first steps of any training. Judged by outcome.

    Cost:
        None.

    References:
        Asadi, Fakoor and Sabach, Resetting the Optimizer in Deep RL, NeurIPS 2023 (2306.17833).
    """

    name = "reset_optimizer_state"
    fixes: ClassVar[dict[str, float]] = {"stale_second_moment": 0.35, "divergence": 0.1}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose an interval that fits the length of the training."""
        if context.optimizer.name == "sgd" and not context.optimizer.momentum:
            return
        every = max(1, (context.planned_epochs or _PARTS) // _PARTS)
        yield Proposal(self.name, (ResetOptimizerState(every),), self.fixes[finding.problem])
