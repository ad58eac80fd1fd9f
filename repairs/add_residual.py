"""Add residual connections."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar

from autotrainer.edits import AddResidual
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.layers import normalizable

__all__ = ["AddResidualRepair"]

_DEEP_STACK = 4
"""Layers of equal width in a row that make a stack deep: as many as `vanishing_gradient` requires."""


class AddResidualRepair(Repair):
    """Add a residual connection around each layer of a deep plain stack.

    What it does:
        Each hidden dense or convolutional layer that has as many units as the previous one computes
        x + gate · activation(layer(x)), where the gate is one learned number that starts at 0. Applies to stacks of at
        least four such layers without normalization and dropout.

    Why it helps:
        At the start the stack passes its input on unchanged, and gradients reach the first layer in full, whatever
        the depth; layers start to contribute as their gates open.

    Safety:
        Unsafe: the architecture changes, by one parameter per layer. Where activations shrink signals only a little,
        nothing is gained. Judged by outcome.

    Cost:
        One sum per layer.

    References:
        He et al. 2016 (1512.03385); Bachlechner et al. 2020, ReZero (2003.04887); Zhang et al. 2019, Fixup
        (1901.09321).
    """

    name = "add_residual"
    fixes: ClassVar[dict[str, float]] = {
        "vanishing_gradient": 0.45,
        "not_learning": 0.3,
        "slow_convergence": 0.2,
        "poor_initialization": 0.35,
        "saturated_activation": 0.25,
        "dying_relu": 0.3,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it for the layers of a deep stack of equal width."""
        if context.dropout or any(layer.kind == "attention" for layer in context.layers):
            return
        plain = {layer.name for layer in normalizable(context)}
        weighted = [layer for layer in context.layers if layer.parameters or layer.frozen]
        layers = tuple(
            layer.name
            for before, layer in pairwise(weighted)
            if layer.name in plain and (layer.kind, layer.units) == (before.kind, before.units)
        )
        if len(layers) >= _DEEP_STACK:
            yield Proposal(self.name, (AddResidual(layers),), self.fixes[finding.problem])
