"""Skip steps with extreme gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SkipUpdates
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["SkipUpdateRepair"]

_WINDOW, _MIN_WINDOW = 128, 12
"""Steps whose norms count: at most as many as in OLMo-core, at least enough for a mean and a standard deviation."""
_SHARE = 0.1
"""Share of a short training that they take: nothing is skipped before half of them are known."""


class SkipUpdateRepair(Repair):
    """Skip the steps whose gradient is not finite, or far larger than those of previous steps.

    What it does:
        Before each step, compares the gradient norm with those of the last 128 steps, or of a tenth of the training if
        it is short. If it is not finite, or more than six standard deviations above their mean, the step is skipped.

    Why it helps:
        One bad batch can give a gradient that undoes thousands of good steps, or makes all weights NaN. Skipping it
        costs one step.

    Safety:
        Unsafe if the gradients are large for another reason: it hides the cause. The norms of skipped steps count as
        well, so that gradients that have grown for good are accepted after a while. Judged by outcome.

    Cost:
        One pass over the gradients per step; in Keras memory for a copy of weights and optimizer.

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
        window = min(_WINDOW, max(_MIN_WINDOW, (context.planned_steps or _WINDOW / _SHARE) * _SHARE))
        yield Proposal(self.name, (SkipUpdates(window=int(window)),), self.fixes[finding.problem])
