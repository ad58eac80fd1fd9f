"""Scale the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetLearningRate
from autotrainer.repair import Dimension, Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.rates import REACH
from autotrainer.repairs._shared.steps import before_any_step

__all__ = ["ScaleLearningRateRepair"]

_DOWN = (0.1, 0.01)
_UP = (10.0, 100.0)
_LADDER = {
    "exploding_gradient": _DOWN,
    "nonfinite": (*_DOWN, 0.001),
    "oscillating_loss": _DOWN,
    "dying_relu": _DOWN,
    "saturated_activation": _DOWN,
    "dormant_neurons": _DOWN,
    "representation_collapse": _DOWN,
    "attention_entropy_collapse": _DOWN,
    "stale_second_moment": (*_DOWN, 10.0),
    "slow_convergence": (*_UP, 0.1),
    "not_learning": (10.0, 0.1, 100.0, 0.01),
    "worse_than_simple_model": (10.0, 0.1, 100.0, 0.01),
    "vanishing_gradient": (10.0,),
    "learning_rate_too_high": _DOWN,
    "learning_rate_too_low": _UP,
    "abnormal_update_ratio": (0.1, 10.0),
    "divergence": _DOWN,
    "loss_spike": _DOWN[:1],
    "gradient_spike": _DOWN[:1],
}
_FIRST_STEP = 0.015
"""Length of the first step ÷ length of the weights, in healthy trainings."""
_CLOSE = 0.5
"""Powers of ten within which a range test only confirms the present rate: it is no more precise than that."""
_MEASURED = 1.1
"""Probability of success of the range test's rate ÷ that of the first factor."""
_REFINED = 0.4
"""Probability that twice or half the rate of a training that works is better."""
_MOST = 4
"""Largest correction, in powers of ten."""


class ScaleLearningRateRepair(Repair):
    """Scale the learning rate by powers of ten.

    What it does:
        Lowers it for explosions, non-finite values, oscillation and dying units; first raises it for slow convergence.
        If the finding holds the curvature, starts at the power of ten that brings the rate below 1 ÷ curvature; if it
        holds the size of steps, at the one that brings them to a usual size. If a short learning-rate range test was
        made, its result is tried first. With ``until="budget"``, twice and half the rate of a training that works.

    Why it helps:
        The learning rate is the most important hyperparameter: gradient descent diverges above 2 ÷ largest curvature,
        and is very slow far below it. One step that is far too large can push all units of a ReLU layer below zero,
        where no gradient brings them back.

    Safety:
        Unsafe only in that the direction can be wrong. Judged by outcome.

    Cost:
        None.

    References:
        Goodfellow et al. 2016, section 11.4; Cohen et al. 2021 (2103.00065); Smith, WACV 2017 (1506.01186);
        AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "scale_learning_rate"
    needs = frozenset({"suggested_rate"})
    fixes: ClassVar[dict[str, float]] = {
        "exploding_gradient": 0.6,
        "nonfinite": 0.5,
        "oscillating_loss": 0.6,
        "dying_relu": 0.62,
        "saturated_activation": 0.35,
        "dormant_neurons": 0.25,
        "representation_collapse": 0.33,
        "attention_entropy_collapse": 0.4,
        "stale_second_moment": 0.45,
        "slow_convergence": 0.6,
        "not_learning": 0.4,
        "worse_than_simple_model": 0.4,
        "vanishing_gradient": 0.15,
        "learning_rate_too_high": 0.65,
        "learning_rate_too_low": 0.68,
        "abnormal_update_ratio": 0.2,
        "divergence": 0.6,
        "loss_spike": 0.4,
        "gradient_spike": 0.3,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose scaled rates, the most promising first."""
        rate = context.optimizer.learning_rate
        if not math.isfinite(rate) or rate <= 0 or before_any_step(finding):
            return
        ladder, suggested = _ladder(finding), context.asked.get("suggested_rate", math.nan)
        if 0 < suggested < math.inf and abs(math.log10(suggested / rate)) > _CLOSE:
            edit = SetLearningRate(float(f"{suggested:.2g}"))
            if any(
                (factor < 1) is (edit.value < rate) for factor in ladder
            ):  # a test does not outweigh the finding itself
                yield Proposal(self.name, (edit,), min(1.0, _MEASURED * self.fixes[finding.problem]))
        for rank, factor in enumerate(ladder):
            scaled = float(f"{rate * factor:.6g}")
            if 1e-8 <= scaled <= 10:
                yield Proposal(self.name, (SetLearningRate(scaled),), self.fixes[finding.problem] * 0.8**rank)

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        """Propose twice and half the rate."""
        rate = context.optimizer.learning_rate
        for factor in (2.0, 0.5):
            scaled = float(f"{rate * factor:.6g}") if math.isfinite(rate) else 0.0
            if 1e-8 <= scaled <= 10:
                yield Proposal(self.name, (SetLearningRate(scaled),), _REFINED)

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Vary the rate over six powers of ten, in steps of half a power."""
        rates = [float(f"{10 ** (power / 2):.2g}") for power in range(-11, 2)]
        return Dimension(self.name, tuple((SetLearningRate(rate),) for rate in rates))


def _ladder(finding: Finding) -> tuple[float, ...]:
    """Return the factors to try, from the measured curvature or size of steps if they are known."""
    first, travel, sharpness = (finding.evidence.get(n, math.nan) for n in ("first_step", "travel", "sharpness"))
    if finding.problem == "learning_rate_too_high" and sharpness > 1:  # rate × curvature: 1 is best, 2 the limit
        power = max(1, math.ceil(min(_MOST, math.log10(sharpness))))
        return tuple(0.1**p for p in (power, power + 1, power - 1) if p > 0)
    if finding.problem == "learning_rate_too_high" and math.isfinite(first) and first > _FIRST_STEP:
        power = max(1, round(min(_MOST, math.log10(first / _FIRST_STEP))))
        return tuple(0.1**p for p in (power, power + 1, power - 1) if p > 0)
    if finding.problem == "learning_rate_too_low" and 0 < travel < REACH:
        power = max(1, round(min(_MOST, math.log10(REACH / travel))))
        return tuple(10.0**p for p in (power, power - 1, power + 1) if p > 0)
    return _LADDER[finding.problem]
