"""Drop activations while training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import AddDropout
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["AddDropoutRepair"]

_MIN_UNITS = 16


class AddDropoutRepair(Repair):
    """Drop activations of hidden layers while training.

    What it does:
        Inserts dropout (rate 0.3) after the activation of hidden dense layers with at least 16 units; nothing
        where the model already has dropout.

    Why it helps:
        No unit can rely on a single other unit; the result approximates an average over many thinned networks.

    Safety:
        Unsafe: slows learning and hurts small layers. Judged by outcome.

    Cost:
        One random number per unit and sample.

    References:
        Srivastava et al. 2014; AUTOTRAINER (ICSE 2021).
    """

    name = "add_dropout"
    fixes: ClassVar[dict[str, float]] = {"overfitting": 0.45}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose dropout after wide hidden layers."""
        if any(layer.kind == "dropout" for layer in context.layers):
            return
        layers = tuple(
            layer.name
            for layer in context.layers
            if layer.hidden and layer.kind == "dense" and (layer.units or 0) >= _MIN_UNITS
        )
        if layers:
            yield Proposal(self.name, (AddDropout(layers, 0.3),), self.fixes[finding.problem])
