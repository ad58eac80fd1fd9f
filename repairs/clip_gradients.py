"""Clip gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ClipGradients
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.steps import before_any_step

__all__ = ["ClipGradientsRepair"]


class ClipGradientsRepair(Repair):
    """Clip gradients before each step.

    What it does:
        Limits the global L2 norm of the gradients: to its value before the explosion if the finding has that number
        (evidence ``usual_grad_norm``), otherwise to 1; or limits each entry to 0.5.

    Why it helps:
        One huge gradient undoes thousands of good steps. Clipping by norm keeps its direction and limits its size.

    Safety:
        Unsafe: if gradients are large for another reason, such as unscaled data, clipping hides the cause. Judged by
        outcome.

    Cost:
        One pass over the gradients per step.

    References:
        Pascanu et al. 2013 (1211.5063); AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "clip_gradients"
    fixes: ClassVar[dict[str, float]] = {
        "exploding_gradient": 0.5,
        "nonfinite": 0.4,
        "oscillating_loss": 0.15,
        "learning_rate_too_high": 0.4,
        "divergence": 0.45,
        "loss_spike": 0.6,
        "gradient_spike": 0.6,
        "attention_entropy_collapse": 0.2,
        "stale_second_moment": 0.4,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose clipping by norm, then by value."""
        if before_any_step(finding):
            return
        usual = finding.evidence.get("usual_grad_norm", math.nan)
        limit = float(f"{usual:.2g}") if math.isfinite(usual) and usual > 0 else 1.0
        effect = self.fixes[finding.problem]
        yield Proposal(self.name, (ClipGradients("norm", limit),), effect)
        if limit > 1:
            yield Proposal(self.name, (ClipGradients("norm", 1.0),), effect * 0.9)
        yield Proposal(self.name, (ClipGradients("value", 0.5),), effect * 0.8)
