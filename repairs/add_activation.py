"""Apply an activation to hidden layers that have none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import AddActivation
from autotrainer.records.signals import linear_layers
from autotrainer.repair import Finding, Proposal, Repair, TargetSummary, TaskContext

__all__ = ["AddActivationRepair"]


class AddActivationRepair(Repair):
    """Apply an activation to hidden layers that have none.

    What it does:
        Where every hidden layer is dense and without an activation, applies ReLU to their outputs. Nothing in other
        models, in which a linear layer may be meant: a projection, a bottleneck, a residual branch.

    Why it helps:
        Linear layers in a row compute what a single one computes. Only with an activation between them can a network
        fit anything else.

    Safety:
        Unsafe: another function of the same weights, and one that trains slower where the task is linear. Judged by
        outcome.

    Cost:
        None.

    References:
        Goodfellow et al., Deep Learning, 2016, section 6.1; Glorot et al. 2011, Deep sparse rectifier networks.
    """

    name = "add_activation"
    fixes: ClassVar[dict[str, float]] = {
        "insufficient_capacity": 0.85,
        "not_learning": 0.45,
        "slow_convergence": 0.3,
        "worse_than_simple_model": 0.45,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose ReLU if the model is linear."""
        dense = linear_layers(context.layers)
        if not all(layer.frozen for layer in dense):
            names = tuple(layer.name for layer in dense)
            yield Proposal(self.name, (AddActivation(names, "relu"),), self.fixes[finding.problem])
