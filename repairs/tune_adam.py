"""Tune how Adam divides by its second moment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import TuneAdam
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["TuneAdamRepair"]

_ADAM_VARIANTS = ("adam", "adamw", "nadam")
"""Optimizers that divide by the root of a mean of squared gradients, and use a first moment."""
_SMALL = 1e-15
"""An ε that is below all gradients: Wortsman et al. 2024."""


class TuneAdamRepair(Repair):
    """Make Adam's second moment follow the gradients, and limit updates that exceed it.

    What it does:
        Shortens the memory of the second moment to 20 steps (β2 = 0.95) or 100 (0.99), and divides an update by the
        root mean square of gradient ÷ root of the second moment if that is above 1. If the gradients are far below the
        second moment, lowers ε instead of clipping updates: ε would otherwise decide the size of steps.

    Why it helps:
        With β2 = 0.999 the second moment is a mean over a thousand steps. Gradients that outgrow it make steps many
        times the learning rate, and the loss jumps; gradients far below it, or below ε, make negligible steps.

    Safety:
        Unsafe: a short memory makes steps noisier. Clipped updates are never longer than unclipped ones. Judged by
        outcome.

    Cost:
        Clipping updates takes one more pass over the weights per step, and memory for a copy of them.

    References:
        Wortsman et al., NeurIPS 2023 (2304.13013), section 3 (StableAdamW); Shazeer and Stern, ICML 2018 (1804.04235),
        section 5; Wortsman et al., ICLR 2024 (2309.14322), section 3.4, on ε.
    """

    name = "tune_adam"
    fixes: ClassVar[dict[str, float]] = {
        "stale_second_moment": 0.5,
        "loss_spike": 0.35,
        "gradient_spike": 0.3,
        "divergence": 0.2,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose a shorter memory with clipped updates; a small ε if gradients are small."""
        if context.optimizer.name not in _ADAM_VARIANTS:
            return
        effect = self.fixes[finding.problem]
        if finding.problem == "stale_second_moment" and finding.evidence.get("ratio", math.inf) < 1:
            yield Proposal(self.name, (TuneAdam(0.95, _SMALL),), effect)
            yield Proposal(self.name, (TuneAdam(epsilon=_SMALL),), effect * 0.8)
            return
        yield Proposal(self.name, (TuneAdam(0.95, clip_updates=True),), effect)
        yield Proposal(self.name, (TuneAdam(0.99, clip_updates=True),), effect * 0.9)
