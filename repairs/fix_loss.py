"""Train with the loss that the targets need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetLoss
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.heads import fitting_head
from autotrainer.repairs._shared.steps import before_any_step

__all__ = ["FixLossRepair"]

_LATER = 0.5
"""Probability of success if a loss became non-finite during training ÷ that if it was non-finite from the start."""


class FixLossRepair(Repair):
    """Train with the loss that the targets need.

    What it does:
        Uses cross-entropy for classes, binary cross-entropy for {0, 1} labels, logistic loss for labels in {-1, 1}, and
        squared error for real values, with the output activation that this loss expects. The loss converts targets to
        the form and shape that it needs (indices or one-hot, (n, 1) or (n,)); the user's targets stay unchanged. A
        custom loss is also replaced if it is the first value that becomes NaN or infinite.

    Why it helps:
        A loss that does not fit the targets has its minimum in the wrong place, or has none.

    Safety:
        Safe: the choice follows from the targets.

    Cost:
        None.

    References:
        Bishop 2006, section 4.3.6; AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "fix_loss"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"improper_loss": 0.9, "target_mismatch": 0.8, "nonfinite": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the fitting loss, with its output activation unless the output already has it."""
        head, effect = fitting_head(context, targets), self.fixes[finding.problem]
        if head is None or "reordered_classes" in finding.evidence:  # no loss brings values back into their order
            return
        if finding.problem == "nonfinite":
            if finding.layers or not context.loss.own:
                return
            effect *= 1.0 if before_any_step(finding) else _LATER
        same = context.output_activation == head.activation
        edits = (SetLoss(head.loss, head.expects),) if same else head.edits
        yield Proposal(self.name, edits, effect)
