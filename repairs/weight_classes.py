"""Weight classes in the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import WeightClasses
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["WeightClassesRepair"]

_EQUAL = 0.8
"""Probability of success of equal weights ÷ that of balanced ones, which the user must have meant."""

_BALANCED = 1.1
"""Share of the most common class ÷ that of equal classes up to which all weights are about 1, and change nothing."""


class WeightClassesRepair(Repair):
    """Let rare classes count as much as common ones.

    What it does:
        Weights each row in the loss by rows / (classes * rows of its class), counted on the training data only. The
        user's own weights of classes are replaced; the user's own sample weights are multiplied by it. If the user's
        weights favor common classes, equal weights are the second choice.

    Why it helps:
        If nine tenths of the rows have the same class, always predicting that class gives a low loss, and the gradients
        of rare classes hardly count.

    Safety:
        Unsafe: rare classes are recognized more often, at the price of more false alarms, and predicted probabilities
        no longer match the class frequencies of the data. Judged by outcome.

    Cost:
        One pass over the training data.

    References:
        King and Zeng 2001, Logistic regression in rare events data; Japkowicz and Stephen 2002; Buda et al. 2018.
    """

    name = "weight_classes"
    risk = Risk.UNSAFE
    fixes: ClassVar[dict[str, float]] = {"class_imbalance": 0.7}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose weights if each row has one class, and classes are not equally frequent already."""
        single = targets.rank <= 1 or targets.width == 1 or targets.one_hot
        weighted = context.loss.weighted or "weight_slope" in finding.evidence
        balanced = targets.classes * targets.majority <= _BALANCED and not weighted
        if single and not balanced and context.kind(targets) in ("multiclass", "binary"):
            yield Proposal(self.name, (WeightClasses(),), self.fixes[finding.problem])
            counted = targets.one_hot or targets.values == tuple(range(targets.classes))
            if "weight_slope" in finding.evidence and counted:
                equal = (1.0,) * targets.classes
                yield Proposal(self.name, (WeightClasses(equal),), _EQUAL * self.fixes[finding.problem])
