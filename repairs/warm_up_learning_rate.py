"""Warm up the learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import WarmUpRate
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.steps import before_any_step

__all__ = ["WarmUpLearningRateRepair"]

_SHARE = 0.1
"""Share of the training: 5 of 90 epochs in Goyal et al. 2017, a tenth in most short trainings of transformers."""
_MAX_STEPS = 2000
"""Steps after which Adam's second moment has adapted, at its usual β2 of 0.999: 2 ÷ (1 − β2)."""
_MIN_STEPS = 5
"""Shortest useful warm-up, in steps."""


class WarmUpLearningRateRepair(Repair):
    """Raise the learning rate linearly at the start of the training.

    What it does:
        Reaches the full rate after the first 10 % of the planned steps, but after no more steps than Adam's second
        moment needs to adapt to the gradients (2 ÷ (1 − β2), 2000 by default).

    Why it helps:
        The first gradients are the largest and the least reliable: weights are random, and a moment estimate is a mean
        of few gradients. A full step can then kill units, saturate attention or push the model into a region that it
        never leaves, at a rate that is right for the rest of the training.

    Safety:
        Unsafe only in that the rate may be too high for the whole training: a warm-up then only delays the problem.
        Judged by outcome. In Keras, a training that already has a schedule is left unchanged.

    Cost:
        A few smaller steps.

    References:
        Goyal et al. 2017 (1706.02677), section 2.2; Ma and Yarats, AAAI 2021 (1910.04209), on 2 ÷ (1 − β2); Gilmer et
        al., ICLR 2022 (2110.04369); Wortsman et al., ICLR 2024 (2309.14322).
    """

    name = "warm_up_learning_rate"
    fixes: ClassVar[dict[str, float]] = {
        "exploding_gradient": 0.3,
        "dying_relu": 0.25,
        "learning_rate_too_high": 0.2,
        "divergence": 0.3,
        "loss_spike": 0.35,
        "gradient_spike": 0.25,
        "nonfinite": 0.25,
        "stale_second_moment": 0.3,
        "attention_entropy_collapse": 0.35,
        "saturated_activation": 0.25,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose one length."""
        if context.planned_steps is None or context.planned_steps < _MIN_STEPS / _SHARE or before_any_step(finding):
            return
        steps = min(_MAX_STEPS, int(_SHARE * context.planned_steps))
        yield Proposal(self.name, (WarmUpRate(steps),), self.fixes[finding.problem])
