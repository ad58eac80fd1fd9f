"""Let rare classes count as much as common ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import WeightClasses
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["WeightClassesRepair"]


class WeightClassesRepair(Repair):
    """Let rare classes count as much as common ones.

    What it does:
        Weighs each row in the loss by rows / (classes * rows of its class), counted on the training data only. Weights
        of rows that the user gives are multiplied by it.

    Why it helps:
        Where one class makes nine tenths of the loss, always giving that class is a good answer, and the gradient of
        the rare ones drowns.

    Safety:
        To be judged by its outcome: rare classes are found more often, at the price of more false alarms, and
        probabilities are no longer those of the data's own shares.

    Cost:
        One pass over the training data.

    References:
        King and Zeng 2001, Logistic regression in rare events data; Japkowicz and Stephen 2002; Buda et al. 2018.
    """

    name = "weight_classes"
    risk = Risk.UNSAFE
    fixes: ClassVar[dict[str, float]] = {"class_imbalance": 0.7}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose weights where rows have one class each."""
        single = targets.rank <= 1 or targets.width == 1 or targets.one_hot
        if single and context.kind(targets) in ("multiclass", "binary"):
            yield Proposal(self.name, (WeightClasses(),), self.fixes[finding.problem])
