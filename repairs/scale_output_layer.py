"""Draw the output layer smaller."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import ScaleOutputLayer
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ScaleOutputLayerRepair"]

_WANTED = 0.1
"""Spread of the first outputs: of logits, for a loss within 1 % of ln C (by its second-order term, variance ÷ 2); of
values, in units of the targets' own."""
_UNKNOWN = 0.1
_SMALLEST = 1e-6


class ScaleOutputLayerRepair(Repair):
    """Make the initial weights of the output layer smaller.

    What it does:
        Multiplies weights and biases of the output layer by a factor, such that the first outputs spread by about
        0.1: logits then answer all classes alike, values start near zero. By 0.1 where their spread is not known.

    Why it helps:
        A model that starts sure of wrong answers spends its first steps on undoing that, with gradients large enough
        to throw all layers below where they do not come back from.

    Safety:
        Safe: the direction of each output is kept, layers below get all of their gradient within the first steps.

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
        """Propose the factor that the first outputs ask for."""
        factor = self._factor(finding, context, targets)
        if factor < 1:
            edit = ScaleOutputLayer(max(_SMALLEST, float(f"{factor:.1g}")))
            yield Proposal(self.name, (edit,), self.fixes[finding.problem])

    @staticmethod
    def _factor(finding: Finding, context: TaskContext, targets: TargetSummary) -> float:
        spread = finding.evidence.get("output_spread", math.nan)
        if context.loss.expects == "probabilities":  # they hide how large the logits are: the loss tells
            spread = finding.evidence.get("first_loss", math.nan)
        if not (math.isfinite(spread) and spread > 0):
            return _UNKNOWN
        unit = math.sqrt(targets.variance) if context.kind(targets) == "regression" else 1.0
        return _WANTED * unit / spread if unit > 0 else _UNKNOWN
