"""Give SGD momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetMomentum
from autotrainer.findings import Finding
from autotrainer.repair import Proposal, Repair
from autotrainer.task import TargetSummary, TaskContext

__all__ = ["AddMomentumRepair"]


class AddMomentumRepair(Repair):
    """Give SGD momentum.

    What it does:
        Sets a momentum of 0.9 where the optimizer is SGD and has less.

    Why it helps:
        Averages over past gradients: directions that alternate cancel, directions that persist add up.

    Safety:
        Unsafe: the effective rate rises up to tenfold. Judged by outcome.

    Cost:
        One more number a weight in memory.

    References:
        Sutskever et al. 2013; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "add_momentum"
    fixes: ClassVar[dict[str, float]] = {"oscillating_loss": 0.2, "slow_convergence": 0.4}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose a momentum of 0.9."""
        if context.optimizer.name == "sgd" and context.optimizer.momentum < 0.9:
            yield Proposal(self.name, (SetMomentum(0.9),), self.fixes[finding.problem])
