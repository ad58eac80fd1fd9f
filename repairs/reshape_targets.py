"""Give targets the shape of the outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ReshapeTargets
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.targets import differ_in_shape_only

__all__ = ["ReshapeTargetsRepair"]


class ReshapeTargetsRepair(Repair):
    """Give targets the shape of the outputs.

    What it does:
        The loss gets targets of shape (n,) as (n, 1) where the outputs are so, or the other way round, in the number
        type of the outputs. Loss, data and model stay as they are.

    Why it helps:
        Shapes (n,) and (n, 1) broadcast to (n, n): the loss compares every output with every target, and the best
        answer is the mean of all targets.

    Safety:
        Safe: the same values in another shape, and only where there are as many of them.

    Cost:
        None.

    References:
        Tambon et al., Silent bugs in deep learning frameworks, EMSE 2024; PyTorch's own warning in mse_loss.
    """

    name = "reshape_targets"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"target_mismatch": 0.95, "not_learning": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the shape of the outputs where nothing else tells targets and outputs apart."""
        if differ_in_shape_only(context, targets, finding.evidence):
            yield Proposal(self.name, (ReshapeTargets(),), self.fixes[finding.problem])
