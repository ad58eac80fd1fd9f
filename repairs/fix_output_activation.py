"""Give the output the activation that loss and targets need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.heads import fitting_head, keeps_loss

__all__ = ["FixOutputActivationRepair"]


class FixOutputActivationRepair(Repair):
    """Give the output the activation that loss and targets need.

    What it does:
        Softmax for one class of several, sigmoid for one unit or several labels, linear for real values; linear instead
        of softmax or sigmoid if the loss expects logits. The loss stays if it fits, and is replaced otherwise.

    Why it helps:
        A ReLU, a one-unit softmax or a doubled softmax before the loss cuts off gradients or possible
        outputs: no training can make up for it.

    Safety:
        Safe: follows from targets and loss.

    Cost:
        None.

    References:
        Bishop 2006, section 4.3.6 (canonical link functions); AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "fix_output_activation"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"improper_output_activation": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the fitting activation, and keep the present loss if it fits."""
        head = fitting_head(context, targets)
        if head is None:
            return
        activation, loss = head.edits
        missing = () if context.output_activation == head.activation else (activation,)
        edits = missing if keeps_loss(head, context, targets) else (*missing, loss)
        axis = context.output_activation == "softmax" and context.loss.class_axis == -1
        if not edits and axis and head.activation == "softmax":
            edits = (activation,)  # it runs over another axis than that of the classes
        if edits:
            yield Proposal(self.name, edits, self.fixes[finding.problem])
