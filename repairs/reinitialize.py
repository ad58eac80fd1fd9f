"""Reinitialize weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, cast

from autotrainer.edits import Reinitialize
from autotrainer.repair import Dimension, Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.layers import layers_by_initializer

__all__ = ["ReinitializeRepair"]


class ReinitializeRepair(Repair):
    """Reinitialize the weights of layers, each with the initializer that suits its activation.

    What it does:
        He uniform for ReLU and its variants, LeCun normal for SELU, Glorot uniform for symmetric activations,
        orthogonal for recurrent layers; biases become zero. Applies to the layers that the finding names, or to all; if
        the signal fades or grows over most of the hidden layers, then also to all hidden layers at once.

    Why it helps:
        Gradient descent can't escape a bad start (constant, far too small or far too large weights, or a layer whose
        units are all dead).

    Safety:
        Unsafe: what the layers have learned is lost. Tried last for pretrained weights. Judged by outcome.

    Cost:
        None.

    References:
        Glorot and Bengio 2010; He et al. 2015 (1502.01852); Saxe et al. 2014 (1312.6120).
    """

    name = "reinitialize"
    fixes: ClassVar[dict[str, float]] = {
        "no_gradient": 0.35,
        "poor_initialization": 0.8,
        "abnormal_initial_loss": 0.5,
        "dying_relu": 0.4,
        "saturated_activation": 0.55,
        "dormant_neurons": 0.3,
        "representation_collapse": 0.35,
        "attention_entropy_collapse": 0.6,
        "sibling_outlier": 0.3,
        "slow_convergence": 0.25,
        "not_learning": 0.3,
        "vanishing_gradient": 0.2,
        "exploding_gradient": 0.2,
        "oscillating_loss": 0.05,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose new weights for the layers named in the finding, else for all.

        A signal that fades or grows over most hidden layers is compared with that of the first one, which is not named:
        then all hidden layers, in one step, come second.
        """
        for rank, layers in enumerate(_choices(finding, context)):
            edits = tuple(
                Reinitialize(names, cast(Any, scheme))
                for scheme, names in layers_by_initializer(context, layers).items()
            )
            if edits:
                yield Proposal(self.name, edits, self.fixes[finding.problem] * 0.8**rank)

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Reinitialize all weights, or none."""
        edits = tuple(
            Reinitialize(layers, cast(Any, scheme)) for scheme, layers in layers_by_initializer(context).items()
        )
        return Dimension(self.name, (edits,)) if edits else None


def _choices(finding: Finding, context: TaskContext) -> tuple[tuple[str, ...], ...]:
    """Return the layers to reinitialize, the most promising choice first; an empty choice stands for all layers."""
    hidden = tuple(layer.name for layer in context.layers if layer.hidden and layer.parameters and not layer.frozen)
    named = tuple(name for name in hidden if name in finding.layers)
    relative = "spread_ratio" in finding.evidence
    most = relative and max(2, len(hidden) / 2) <= len(named) < len(hidden)
    every = (*hidden, *(name for name in finding.layers if name not in hidden))
    return (finding.layers, every) if most else (finding.layers,)
