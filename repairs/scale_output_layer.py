"""Shrink the initial weights of the output layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ScaleOutputLayer
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ScaleOutputLayerRepair"]

_TARGET_SPREAD = 0.1
"""Target spread of the first outputs: of logits, for a loss within 1 % of ln C (by its second-order term,
variance ÷ 2); of values, in units of the targets' spread."""
_DEFAULT_FACTOR = 0.1
_SMALLEST = 1e-6


class ScaleOutputLayerRepair(Repair):
    """Shrink the initial weights of the output layer.

    What it does:
        Multiplies weights and biases of the output layer by a factor that gives the first outputs a spread of about
        0.1: logits then favor no class, values start near zero. The factor is 0.1 if the spread is unknown.

    Why it helps:
        A model that starts with confident wrong predictions spends its first steps on undoing them, with gradients
        large enough to push earlier layers to where they can't recover.

    Safety:
        Safe: the direction of each output is kept, and earlier layers get their full gradient after the first steps.

    Cost:
        None.

    References:
        Karpathy, A Recipe for Training Neural Networks, 2019; Zhang et al. 2019, Fixup (1901.09321), and Yang et al.
        2022 (2203.03466), appendix D.2, on output layers that start at zero.
    """

    name = "scale_output_layer"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "abnormal_initial_loss": 0.6,
        "poor_initialization": 0.2,
        "exploding_gradient": 0.15,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose the factor that the first outputs require."""
        factor = max(_SMALLEST, float(f"{self._factor(finding, context, targets):.1g}"))
        if factor < 1:
            yield Proposal(self.name, (ScaleOutputLayer(factor),), self.fixes[finding.problem])

    @staticmethod
    def _factor(finding: Finding, context: TaskContext, targets: TargetSummary) -> float:
        spread = finding.evidence.get("output_spread", math.nan)
        if context.loss.expects == "probabilities":  # they hide the size of the logits, which the loss shows
            spread = finding.evidence.get("first_loss", math.nan)
        if not (math.isfinite(spread) and spread > 0):
            return _DEFAULT_FACTOR
        unit = math.sqrt(targets.variance) if context.kind(targets) == "regression" else 1.0
        return _TARGET_SPREAD * unit / spread if unit > 0 else _DEFAULT_FACTOR
