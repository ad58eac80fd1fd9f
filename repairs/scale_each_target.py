"""Train each of several outputs on standardized targets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ScaleEachTarget
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ScaleEachTargetRepair"]


class ScaleEachTargetRepair(Repair):
    """Train each of several outputs on standardized targets.

    What it does:
        Where a Keras model has several outputs with a loss each, standardizes the targets of those whose loss is a
        difference (squared or absolute error, Huber) and whose targets are far from unit scale, by the mean and the
        standard deviation of the training data. The model converts these outputs back to the units of the targets. All
        losses count alike: the user's `loss_weights` are left out.

    Why it helps:
        A squared error in the units of prices is millions of times the cross-entropy beside it. The sum of both is that
        of the prices, and so is its gradient: what the outputs share is learned for the prices alone.

    Safety:
        Unsafe: weights between losses may be meant. Judged by outcome; predictions stay in the original units.

    Cost:
        One pass over the training data.

    References:
        LeCun et al. 1998, Efficient BackProp, section 4.3; Kendall, Gal and Cipolla, CVPR 2018 (weighing losses).
    """

    name = "scale_each_target"
    risk = Risk.UNSAFE
    fixes: ClassVar[dict[str, float]] = {"loss_term_imbalance": 0.85}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it: only a model with several outputs takes it."""
        if context.framework != "pytorch":
            yield Proposal(self.name, (ScaleEachTarget(),), self.fixes[finding.problem])
