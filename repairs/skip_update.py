"""Leave out steps that are out of all proportion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SkipUpdates
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["SkipUpdateRepair"]

_WINDOW, _LEAST = 128, 12
"""Steps whose norms count: as many as in OLMo-core, and as few as tell a mean and a deviation."""
_SHARE = 0.1
"""Share of a short training that they take: nothing is left out before half of them are known."""


class SkipUpdateRepair(Repair):
    """Leave out the steps whose gradient is not finite, or far outside what the run has had.

    What it does:
        Before each step compares the gradient's norm with those of the last 128 steps, or of a tenth of the training
        where it is short: above their mean by more than six standard deviations, or not finite, and no step is taken.

    Why it helps:
        One bad batch makes a gradient that undoes thousands of good steps, or poisons all weights with NaN. Left out,
        it costs one step.

    Safety:
        Unsafe where the gradients are large for another reason: it hides the cause. The norms of left-out steps count
        as well, so that gradients which have really grown are let through. Judged by outcome.

    Cost:
        One pass over the gradients a step; in Keras memory for a copy of weights and optimizer.

    References:
        OLMo 2 (2501.00656) and the skipped steps of OLMo-core; Chowdhery et al., PaLM (2204.02311), section 5.1;
        Micikevicius et al., ICLR 2018 (1710.03740), on steps that overflow.
    """

    name = "skip_update"
    fixes: ClassVar[dict[str, float]] = {
        "gradient_spike": 0.55,
        "loss_spike": 0.5,
        "exploding_gradient": 0.25,
        "nonfinite": 0.3,
        "divergence": 0.2,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose one limit, against as many of the last steps as the length of the training allows."""
        window = min(_WINDOW, max(_LEAST, (context.planned_steps or _WINDOW / _SHARE) * _SHARE))
        yield Proposal(self.name, (SkipUpdates(window=int(window)),), self.fixes[finding.problem])
