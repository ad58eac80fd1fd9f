"""Make the optimizer forget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ResetOptimizerState
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["ResetOptimizerStateRepair"]

_PARTS = 10
"""Parts of the training that begin with an empty memory."""


class ResetOptimizerStateRepair(Repair):
    """Make the optimizer forget what it remembers of other gradients.

    What it does:
        Starts with moments at zero, also where the optimizer given has been used before, and clears them again at the
        start of each epoch, or of every tenth of the training.

    Why it helps:
        Moments of gradients that are gone, from before an explosion or from other data, shrink or bend every step for
        a thousand steps. Cleared, they are those of the present gradients after a few.

    Safety:
        Unsafe: the first steps after each reset are noisy, as those of a training are. Judged by outcome.

    Cost:
        None.

    References:
        Asadi, Fakoor and Sabach, Resetting the Optimizer in Deep RL, NeurIPS 2023 (2306.17833).
    """

    name = "reset_optimizer_state"
    fixes: ClassVar[dict[str, float]] = {"stale_second_moment": 0.35, "divergence": 0.1}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose a rhythm that fits the length of the training."""
        if context.optimizer.name == "sgd" and not context.optimizer.momentum:
            return
        every = max(1, (context.planned_epochs or _PARTS) // _PARTS)
        yield Proposal(self.name, (ResetOptimizerState(every),), self.fixes[finding.problem])
