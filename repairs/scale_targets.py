"""Train on standardized targets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import Edit, ScaleTargets, SetOutputActivation
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.targets import far_from_unit_scale

__all__ = ["ScaleTargetsRepair"]

_LINEAR = ("squared_error", "absolute_error", "huber")
_UNSURE = 0.5
"""Factor on the effect with a custom loss: it may compare ratios, for which zero-mean targets don't work."""


class ScaleTargetsRepair(Repair):
    """Train on standardized targets.

    What it does:
        Computes the loss of (output - mean) / std and (target - mean) / std, per column of the targets, with mean and
        standard deviation of the training data only. The model converts its output back to the units of the targets.
        An output activation that can't go below zero or above one is removed.

    Why it helps:
        Outputs of newly initialized weights are near zero, with a spread of about one. With targets in the thousands,
        the first gradients are thousands of times too large for plain SGD, and optimizers whose steps are as large
        as the learning rate need too many of them.

    Safety:
        Safe: the same numbers in other units, and predictions in the original units. The loss is that of scaled values,
        so that all columns count alike.

    Cost:
        One pass over the training data.

    References:
        LeCun et al. 1998, Efficient BackProp, section 4.3; Bishop 1995, Neural Networks for Pattern Recognition, 8.2.
    """

    name = "scale_targets"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "unscaled_targets": 0.9,
        "divergence": 0.6,
        "exploding_gradient": 0.6,
        "learning_rate_too_high": 0.5,
        "nonfinite": 0.6,
        "not_learning": 0.6,
        "worse_than_simple_model": 0.6,
        "slow_convergence": 0.6,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose scaling if the targets are numbers far from unit scale."""
        loss = context.loss
        if context.kind(targets) != "regression" or loss.expects in ("log_values", "log_probabilities"):
            return
        if loss.family not in (*_LINEAR, "custom") or not far_from_unit_scale(targets):
            return
        edits: tuple[Edit, ...] = (ScaleTargets(),)
        if context.output_activation not in (None, "linear"):
            edits = (SetOutputActivation("linear"), *edits)
        effect = self.fixes[finding.problem] * (1.0 if loss.family in _LINEAR else _UNSURE)
        yield Proposal(self.name, edits, effect)
