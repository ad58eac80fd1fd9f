"""Draw weights anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, cast

from autotrainer.edits import Reinitialize
from autotrainer.repair import Dimension, Finding, Proposal, Repair, TargetSummary, TaskContext
from autotrainer.repairs._shared.layers import drawn

__all__ = ["ReinitializeRepair"]


class ReinitializeRepair(Repair):
    """Draw the weights of layers anew, each with the initializer that suits its activation.

    What it does:
        He uniform for ReLU and its kin, LeCun normal for SELU, Glorot uniform for symmetric activations,
        orthogonal for recurrent layers; biases become zero. Only the layers that the finding names, or all.

    Why it helps:
        A bad start (constant, far too small or too large weights, all units of a layer dead) can't be left by
        gradient descent.

    Safety:
        Unsafe: what the layers had learnt is lost. Tried last for pretrained weights. Judged by outcome.

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
        "slow_convergence": 0.25,
        "not_learning": 0.3,
        "vanishing_gradient": 0.2,
        "exploding_gradient": 0.2,
        "oscillating_loss": 0.05,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose new weights for the layers named in the finding, else for all."""
        edits = tuple(
            Reinitialize(layers, cast(Any, scheme)) for scheme, layers in drawn(context, finding.layers).items()
        )
        if edits:
            yield Proposal(self.name, edits, self.fixes[finding.problem])

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Draw all weights anew, or not."""
        edits = tuple(Reinitialize(layers, cast(Any, scheme)) for scheme, layers in drawn(context).items())
        return Dimension(self.name, (edits,)) if edits else None
