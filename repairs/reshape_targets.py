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
        Gives the loss targets of shape (n,) as (n, 1) if the outputs have that shape, or the reverse, in the data type
        of the outputs. Loss, data and model stay unchanged.

    Why it helps:
        Shapes (n,) and (n, 1) broadcast to (n, n): the loss compares every output with every target, and the best
        prediction is the mean of all targets.

    Safety:
        Safe: the same values in another shape, and only if there are equally many.

    Cost:
        None.

    References:
        Tambon et al., Silent bugs in deep learning frameworks, EMSE 2024; PyTorch's own warning in mse_loss.
    """

    name = "reshape_targets"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"target_mismatch": 0.95, "not_learning": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the shape of the outputs if targets and outputs differ in nothing else."""
        if differ_in_shape_only(context, targets, finding.evidence):
            yield Proposal(self.name, (ReshapeTargets(),), self.fixes[finding.problem])
