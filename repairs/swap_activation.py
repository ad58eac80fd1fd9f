"""Replace the activations of hidden layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from autotrainer.edits import SwapActivation
from autotrainer.repair import Dimension, Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.layers import layers_with_activation

__all__ = ["SwapActivationRepair"]

_ORDER: dict[str, tuple[Any, ...]] = {
    "vanishing_gradient": ("selu", "relu", "leaky_relu", "gelu"),
    "exploding_gradient": ("selu", "relu", "tanh", "elu"),
    "nonfinite": ("selu", "relu", "tanh"),
    "dying_relu": ("selu", "leaky_relu", "elu", "gelu", "thresholded_relu"),
    "saturated_activation": ("selu", "relu", "leaky_relu", "gelu"),
    "dormant_neurons": ("selu", "leaky_relu", "elu"),
    "representation_collapse": ("selu", "leaky_relu"),
    "no_gradient": ("selu", "leaky_relu"),
    "not_learning": ("selu", "leaky_relu", "tanh"),
    "worse_than_simple_model": ("selu", "leaky_relu", "tanh"),
    "slow_convergence": ("selu", "leaky_relu"),
}
_VARIED: tuple[Any, ...] = ("relu", "tanh", "selu", "elu", "gelu")


class SwapActivationRepair(Repair):
    """Replace the activations of hidden layers and reinitialize the weights accordingly.

    What it does:
        Gives hidden layers SELU (with LeCun normal weights), ReLU or LeakyReLU (with He uniform weights), tanh, ELU,
        GELU or thresholded ReLU, whether the activation is part of a layer or a separate layer. Recurrent layers keep
        their gates; frozen and protected layers stay unchanged.

    Why it helps:
        The slope of a sigmoid is at most 1/4, so gradients shrink with every layer; ReLU units whose input is never
        positive pass no gradient back; exponentials overflow. SELU keeps activations near mean 0 and variance 1 over
        many layers.

    Safety:
        Unsafe: the changed layers are reinitialized, and what they have learned is lost. Judged by outcome.

    Cost:
        None.

    References:
        Klambauer et al. 2017 (1706.02515); He et al. 2015 (1502.01852); Glorot and Bengio 2010; Zhang et al.,
        AUTOTRAINER (ICSE 2021), table 2.
    """

    name = "swap_activation"
    fixes: ClassVar[dict[str, float]] = {
        "no_gradient": 0.4,
        "vanishing_gradient": 0.7,
        "dying_relu": 0.6,
        "saturated_activation": 0.45,
        "dormant_neurons": 0.4,
        "representation_collapse": 0.3,
        "exploding_gradient": 0.4,
        "nonfinite": 0.3,
        "not_learning": 0.35,
        "worse_than_simple_model": 0.25,
        "slow_convergence": 0.25,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose each activation that the hidden layers do not have yet."""
        layers = layers_with_activation(context)
        present = {layer.activation for layer in context.layers if layer.name in layers}
        if not layers:
            return
        effect = self.fixes[finding.problem]
        for rank, to in enumerate(_ORDER[finding.problem]):
            if present != {to}:
                yield Proposal(self.name, (SwapActivation(layers, to),), effect * 0.9**rank)

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Vary the activation of all hidden layers."""
        layers, names = layers_with_activation(context), _VARIED
        return Dimension(self.name, tuple((SwapActivation(layers, name),) for name in names)) if layers else None
