"""Train with the loss that the targets need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetLoss
from autotrainer.findings import Finding
from autotrainer.repair import Proposal, Repair, Risk
from autotrainer.repairs._heads import fitting_head
from autotrainer.task import TargetSummary, TaskContext

__all__ = ["FixLossRepair"]


class FixLossRepair(Repair):
    """Train with the loss that the targets need.

    What it does:
        Cross-entropy for classes, binary cross-entropy for {0, 1} labels, logistic loss for labels in {-1, 1},
        squared error for real values, with the output activation that it takes. The loss brings targets into the
        form and shape that it needs (indices or one-hot, (n, 1) or (n,)); the user's targets stay as they are.

    Why it helps:
        A loss that does not fit the targets has its minimum elsewhere, or none.

    Safety:
        Safe: follows from the targets.

    Cost:
        None.

    References:
        Bishop 2006, section 4.3.6; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "fix_loss"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"improper_loss": 0.9, "target_mismatch": 0.8}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the fitting loss, with its output activation unless the output has it."""
        head = fitting_head(context, targets)
        if head is None:
            return
        same = context.output_activation == head.activation
        edits = (SetLoss(head.loss, head.expects),) if same else head.edits
        yield Proposal(self.name, edits, self.fixes[finding.problem])
