"""Add missing parameters to the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import CompleteOptimizer
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["CompleteOptimizerRepair"]


class CompleteOptimizerRepair(Repair):
    """Add missing trainable parameters to the optimizer.

    What it does:
        Adds the parameters of the layers that the finding names, with the settings of the first parameter group. Where
        the optimizer has none of the model's parameters, `autotrainer.fit` adds all of them before the first step.

    Why it helps:
        Parameters that no optimizer updates keep their random initial values, whatever gradients they get.

    Safety:
        Safe: the layers get gradients, are not frozen, and still have their initial weights; or nothing else could be
        trained. Frozen parameters and layers that ``keep`` names are left out; a linear probe on a trained model is not
        reported in the first place.

    Cost:
        The optimizer's memory for these parameters.

    References:
        PyTorch documentation, torch.optim; Humbatova et al., ICSE 2020 (taxonomy of real faults).
    """

    name = "complete_optimizer"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"parameters_not_optimized": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose to add the layers that the finding names."""
        yield Proposal(self.name, (CompleteOptimizer(finding.layers),), self.fixes[finding.problem])
