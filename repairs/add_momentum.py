"""Give SGD momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetMomentum
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["AddMomentumRepair"]

_HEAVY = 0.95
"""Momentum that sums over twice as many steps as the usual 0.9."""


class AddMomentumRepair(Repair):
    """Give SGD momentum.

    What it does:
        Sets the momentum of SGD to 0.9 if it is lower. If steps are too large and the momentum is 0.95 or more, lowers
        it to 0.9.

    Why it helps:
        Momentum averages past gradients: directions that alternate cancel, directions that persist add up.

    Safety:
        Unsafe: the effective learning rate rises up to tenfold. Judged by outcome.

    Cost:
        One more number per weight in memory.

    References:
        Sutskever et al. 2013; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "add_momentum"
    fixes: ClassVar[dict[str, float]] = {
        "oscillating_loss": 0.2,
        "slow_convergence": 0.4,
        "learning_rate_too_low": 0.4,
        "learning_rate_too_high": 0.7,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose a momentum of 0.9."""
        if context.optimizer.name != "sgd":
            return
        momentum = context.optimizer.momentum
        if momentum >= _HEAVY if finding.problem == "learning_rate_too_high" else momentum < 0.9:
            yield Proposal(self.name, (SetMomentum(0.9),), self.fixes[finding.problem])
