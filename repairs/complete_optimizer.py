"""Give the optimizer the parameters that it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import CompleteOptimizer
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["CompleteOptimizerRepair"]


class CompleteOptimizerRepair(Repair):
    """Give the optimizer the trainable parameters that it was not given.

    What it does:
        Adds the parameters of the layers that the finding names, with the settings of the first parameter group.

    Why it helps:
        What no optimizer owns keeps its random values for ever, whatever gradients it gets.

    Safety:
        Safe: the layers have gradients, are not frozen, and were left as they were drawn. Frozen parameters and
        layers that ``keep`` names are left out, and a linear probe over a trained model is no error to begin with.

    Cost:
        The optimizer's memory for these parameters.

    References:
        PyTorch documentation, torch.optim; Humbatova et al., ICSE 2020 (taxonomy of real faults).
    """

    name = "complete_optimizer"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"parameters_not_optimized": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose to add what the finding names."""
        yield Proposal(self.name, (CompleteOptimizer(finding.layers),), self.fixes[finding.problem])
