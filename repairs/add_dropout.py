"""Drop activations while training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import AddDropout
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["AddDropoutRepair"]

_LEAST_UNITS = 16


class AddDropoutRepair(Repair):
    """Drop activations of hidden layers while training.

    What it does:
        Inserts dropout (rate 0.3) after the activation of hidden dense layers with at least 16 units; none where
        the model has dropout already.

    Why it helps:
        Units can't rely on single others, which averages over many thinned networks.

    Safety:
        Unsafe: slows learning and hurts small layers. Judged by outcome.

    Cost:
        One random number a unit and sample.

    References:
        Srivastava et al. 2014; AUTOTRAINER (ICSE 2021).
    """

    name = "add_dropout"
    fixes: ClassVar[dict[str, float]] = {"overfitting": 0.45}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose dropout behind wide hidden layers."""
        if any(layer.kind == "dropout" for layer in context.layers):
            return
        layers = tuple(
            layer.name
            for layer in context.layers
            if layer.hidden and layer.kind == "dense" and (layer.units or 0) >= _LEAST_UNITS
        )
        if layers:
            yield Proposal(self.name, (AddDropout(layers, 0.3),), self.fixes[finding.problem])
