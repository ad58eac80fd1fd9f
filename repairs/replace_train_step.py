"""Train with the framework's own step in place of one that a model defines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import StandardStep
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext

__all__ = ["ReplaceTrainStepRepair"]


class ReplaceTrainStepRepair(Repair):
    """Train with the framework's own step in place of one that a model defines.

    What it does:
        Leaves out the ``train_step`` of a Keras model, and compiles the model with the loss that this step calls: the
        step of Keras then calls the model in training mode, and updates all trainable weights.

    Why it helps:
        A step of one's own is easily wrong in ways that raise no error: a call without ``training=True``, a gradient
        that is stopped or asked for some weights only, gradients paired with other weights.

    Safety:
        Unsafe: the step may do more than it seems to. It is only replaced if one step of a copy calls a single loss of
        Keras with the model's outputs and the targets of the batch, and reports its value. Judged by outcome.

    Cost:
        None.

    References:
        Keras guide, Customizing what happens in `fit()`.
    """

    name = "replace_train_step"
    risk = Risk.UNSAFE
    fixes: ClassVar[dict[str, float]] = {
        "parameters_not_optimized": 0.85,
        "wrong_training_mode": 0.85,
        "no_gradient": 0.6,
        "not_learning": 0.35,
        "worse_than_simple_model": 0.35,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose it, unless nothing speaks of the step and the loss is that of the framework's own."""
        of_outcome = finding.problem in ("not_learning", "worse_than_simple_model")
        if context.framework != "pytorch" and (context.loss.family == "none" or not of_outcome):
            yield Proposal(self.name, (StandardStep(),), self.fixes[finding.problem])
