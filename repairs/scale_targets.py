"""Train on standardized targets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from autotrainer.edits import Edit, ScaleTargets, SetLoss, SetOutputActivation
from autotrainer.records.output_ranges import OUTPUT_RANGES
from autotrainer.repair import Finding, Proposal, Repair, Risk, TargetSummary, TaskContext
from autotrainer.repairs._shared.targets import are_out_of_reach, far_from_unit_scale, reach

__all__ = ["ScaleTargetsRepair"]

_LINEAR = ("squared_error", "absolute_error", "huber")
_NEAR = 3.0
"""Standard deviation, or its inverse, up to which targets with a mean within one of them are at unit scale."""
_INNER = 1 / math.sqrt(3)
"""Share of the range of a sigmoid between the points of its largest second derivative."""
_REACH = 3.5
"""Standard deviations that the farthest target is from the mean, at least, for a logarithmic scale to be looked for:
values spread evenly over three decades are at 4."""
_SECOND = 0.98
"""Effect of the second way to reach targets, or to scale them, ÷ that of the first: still before an output that is only
freed."""
_UNSURE = 0.5
"""Factor on the effect with a custom loss: it may compare ratios, for which zero-mean targets don't work."""


class ScaleTargetsRepair(Repair):
    """Train on standardized targets.

    What it does:
        Computes the loss of (output - mean) / std and (target - mean) / std, per column of the targets, with mean and
        standard deviation of the training data only. The model converts its output back to the units of the targets.
        An output activation that can't go below zero or above one is removed. Where it is the fault that the output
        can't reach the targets, there are two ways: this one; or activation and loss stay, and the targets are mapped
        into the range of the output instead. The second comes first if the targets gather at the ends of their range,
        as saturated outputs do: if they vary more than uniformly distributed ones would.

        Targets over several decades are taken on a logarithmic scale first, as an inverse hyperbolic sine, which is
        signed and linear near zero: if that makes their distribution more normal by at least one nat a value (Gaussian
        log-likelihood), and the inputs do not explain the raw targets better linearly. The model answers in the
        original units all the same, and is judged by them. Its predictions stay as near to the mean, on the logarithmic
        scale, as the training targets do: errors of extrapolation would grow exponentially.

    Why it helps:
        Outputs of newly initialized weights are near zero, with a spread of about one. With targets in the thousands,
        the first gradients are thousands of times too large for plain SGD, and optimizers whose steps are as large
        as the learning rate need too many of them. A squared error of targets over several decades is that of a few
        rows; the others are not learned.

    Safety:
        Safe: the same numbers in other units, and predictions in the original units. The loss is that of scaled values,
        so that all columns count alike.

    Cost:
        One pass over the training data.

    References:
        LeCun et al. 1998, Efficient BackProp, section 4.3, and 4.5 on targets within the range of a sigmoid (at the
        largest second derivative); Bishop 1995, Neural Networks for Pattern Recognition, 8.2; Burbidge, Magee and Robb,
        JASA 1988 (inverse hyperbolic sine).
    """

    name = "scale_targets"
    risk = Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {
        "unscaled_targets": 0.9,
        "improper_output_activation": 0.92,
        "improper_loss": 0.92,
        "divergence": 0.6,
        "exploding_gradient": 0.6,
        "learning_rate_too_high": 0.5,
        "nonfinite": 0.6,
        "not_learning": 0.6,
        "worse_than_simple_model": 0.6,
        "slow_convergence": 0.6,
    }

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose scaling if the targets are numbers far from unit scale, or out of reach of the output."""
        loss = context.loss
        if finding.problem in ("improper_output_activation", "improper_loss"):
            if are_out_of_reach(context, targets):
                yield from self._reaching(context, targets, self.fixes[finding.problem])
            return
        if context.kind(targets) != "regression" or loss.expects in ("log_values", "log_probabilities"):
            return
        if loss.family not in (*_LINEAR, "custom"):
            return
        freed: tuple[Edit, ...] = ()
        if context.output_activation not in (None, "linear"):
            freed = (SetOutputActivation("linear"),)
        effect = self.fixes[finding.problem] * (1.0 if loss.family in _LINEAR else _UNSURE)
        # the rule has more evidence: outputs that have not reached the mean of such targets
        far = far_from_unit_scale(targets) or finding.problem == "unscaled_targets"
        if loss.family in _LINEAR and reach(targets) >= _REACH:
            yield Proposal(self.name, (*freed, ScaleTargets(logarithm=True)), effect / _SECOND if far else effect / 2)
        if far:
            yield Proposal(self.name, (*freed, ScaleTargets()), effect)

    def _reaching(self, context: TaskContext, targets: TargetSummary, effect: float) -> Iterable[Proposal]:
        """Propose a free output with standardized targets, and targets within the range of the output."""
        freed, mapped = self._freed(context, targets), self._mapped(context, targets)
        pair = (mapped, freed) if _gather_at_ends(targets) else (freed, mapped)
        for rank, edits in enumerate(edits for edits in pair if edits):
            yield Proposal(self.name, edits, effect if rank == 0 else _SECOND * effect)

    @staticmethod
    def _freed(context: TaskContext, targets: TargetSummary) -> tuple[Edit, ...]:
        linear = context.loss.family in _LINEAR
        spread = math.sqrt(targets.variance)
        if not spread > 0 or (abs(targets.mean) <= spread and 1 / _NEAR <= spread <= _NEAR):
            return ()  # removing the activation is enough
        edits: tuple[Edit, ...] = () if linear else (SetLoss("squared_error", "values"),)
        if context.output_activation not in (None, "linear"):
            edits = (SetOutputActivation("linear"), *edits)
        # without numbers, they are fitted column by column, which takes a present loss of differences
        return (*edits, ScaleTargets() if linear else ScaleTargets((targets.mean,), (spread,)))

    @staticmethod
    def _mapped(context: TaskContext, targets: TargetSummary) -> tuple[Edit, ...]:
        low, high = OUTPUT_RANGES.get(context.output_activation or "", (-math.inf, math.inf))
        loss, width = context.loss, targets.maximum - targets.minimum
        probabilities = loss.family == "binary_cross_entropy" and loss.expects == "probabilities"
        if not math.isfinite(high - low) or not width > 0 or not (loss.family in _LINEAR or probabilities):
            return ()
        scale = width / (high - low) / (1.0 if probabilities else _INNER)
        mean = (targets.minimum + targets.maximum - scale * (low + high)) / 2
        return (ScaleTargets((mean,), (scale,)),)


def _gather_at_ends(targets: TargetSummary) -> bool:
    """Return whether targets vary more than a uniform distribution on their range, whose variance is range² ÷ 12."""
    return 12 * targets.variance > (targets.maximum - targets.minimum) ** 2
