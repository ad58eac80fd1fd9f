"""Set weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetWeightDecay
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.rates import ADAPTIVE

__all__ = ["RegularizeWeightsRepair"]


class RegularizeWeightsRepair(Repair):
    """Set a weight decay that is decoupled from the gradient.

    What it does:
        Sets a weight decay (0.01 with adaptive optimizers, 1e-3 with SGD) on weight matrices, not on biases and
        normalization parameters; ten times the present value if some is set already.

    Why it helps:
        Smaller weights give smoother functions, which generalize better.

    Safety:
        Unsafe: too much of it underfits. Judged by outcome.

    Cost:
        None.

    References:
        Loshchilov and Hutter 2019 (1711.05101); AUTOTRAINER (ICSE 2021).
    """

    name = "regularize_weights"
    fixes: ClassVar[dict[str, float]] = {"overfitting": 0.4}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose one coefficient."""
        present = context.optimizer.weight_decay
        value = 10 * present if present > 0 else (1e-2 if context.optimizer.name in ADAPTIVE else 1e-3)
        if value <= 1:
            yield Proposal(self.name, (SetWeightDecay(float(f"{value:.3g}")),), self.fixes[finding.problem])
