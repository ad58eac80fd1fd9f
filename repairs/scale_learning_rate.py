"""Scale the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import SetLearningRate
from autotrainer.findings import Finding
from autotrainer.repair import Proposal, Repair
from autotrainer.task import TargetSummary, TaskContext

__all__ = ["ScaleLearningRateRepair"]

_DOWN = (0.1, 0.01)
_UP = (10.0, 100.0)
_LADDER = {
    "exploding_gradient": _DOWN,
    "nonfinite": (*_DOWN, 0.001),
    "oscillating_loss": _DOWN,
    "dying_relu": _DOWN,
    "slow_convergence": (*_UP, 0.1),
    "not_learning": (10.0, 0.1, 100.0, 0.01),
    "vanishing_gradient": (10.0,),
}


class ScaleLearningRateRepair(Repair):
    """Scale the learning rate by powers of ten.

    What it does:
        Downwards for explosions, non-finite values, oscillation and dying units; upwards first for slow
        convergence.

    Why it helps:
        The learning rate is the hyperparameter that decides most: gradient descent diverges above 2 over the
        largest curvature, and crawls far below it. One step that is far too large pushes all units of a ReLU layer
        below zero, where no gradient brings them back.

    Safety:
        Unsafe only in that it can be the wrong direction. Judged by outcome.

    Cost:
        None.

    References:
        Goodfellow et al. 2016, section 11.4; Cohen et al. 2021 (2103.00065); AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "scale_learning_rate"
    fixes: ClassVar[dict[str, float]] = {
        "exploding_gradient": 0.6,
        "nonfinite": 0.5,
        "oscillating_loss": 0.6,
        "dying_relu": 0.62,
        "slow_convergence": 0.6,
        "not_learning": 0.4,
        "vanishing_gradient": 0.15,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the rungs of the ladder, those that the problem asks for first."""
        rate = context.optimizer.learning_rate
        if not math.isfinite(rate) or rate <= 0:
            return
        for rank, factor in enumerate(_LADDER[finding.problem]):
            edit = SetLearningRate(float(f"{rate * factor:.6g}"))
            if 1e-8 <= edit.value <= 10:
                yield Proposal(self.name, (edit,), self.fixes[finding.problem] * 0.8**rank)
