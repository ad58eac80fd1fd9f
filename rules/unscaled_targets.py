"""AT508: regression targets far from unit scale."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, lead_of_simple_model
from autotrainer.rules._shared.loss_values import measures_distance
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import last_median
from autotrainer.rules._shared.words import about

__all__ = ["UnscaledTargets"]

_LEFT, _DOMINANT = 0.25, 16
"""Squared error that is left ÷ squared mean of the targets from which the outputs are less than half way there, and
least squared mean ÷ variance: with less, the error has other parts of that size."""

_BEHIND = 0.1
"""Lead of a simple model at the end of a watched training that makes it an error, as in `worse_than_simple_model`."""

_FROM_ZERO = 10
"""Least absolute mean of targets that outputs have to travel far to from 0, where they start."""


class UnscaledTargets(Rule):
    """Regression targets are far from unit scale.

    What it does
        Compares the spread and the mean of the targets with 1.

    Why it hurts
        Gradients of a squared error grow with the targets: plain SGD explodes. Adaptive optimizers move each weight by
        about the learning rate per step, so large targets take very many steps. Targets of a ten-thousandth drown in
        the spread of the outputs that these steps, and random initial weights, cause.

    Evidence used
        Standard deviation, and mean ÷ standard deviation, of all sampled targets; the outcome of the training; whether
        a custom loss changes with the squared error.

    Thresholds
        ``spread``: standard deviation. ``offset``: mean ÷ standard deviation, where the mean itself is at least 10; a
        smaller one counts while it makes up a quarter of the squared error, or, in a training with a poor outcome,
        while outputs of little spread are certainly less than half way from 0 to the mean. A spread below
        1 ÷ ``spread`` counts if the outputs are certainly worse than the mean, as those that vary far more are.
        ``schedule``: share of the planned training from which a poor outcome makes this an error. At the end of a
        watched training, so does a simple model that is ahead by 0.1.

    When it is wrong
        With a suitable learning rate such targets train well: a model that has learned is not reported, and without a
        poor outcome this is a warning. A custom loss that does not grow with the distance between outputs and targets
        (one that ranks, or takes logarithms) works with targets on any scale: nothing is reported once eight samples
        have shown it.

    Repairs
        Standardize the targets, or lower the learning rate.

    References
        LeCun et al., Efficient BackProp, 1998, section 4.3; Bishop, Neural Networks for Pattern Recognition, 8.2.
    """

    problem = "unscaled_targets"
    code = "AT508"
    aliases = ("target_scale", "unnormalized_targets", "large_targets")
    phrases = (
        "mse loss is huge",
        "huge loss when predicting prices",
        "regression loss in the millions",
        "targets are very large",
        "should i normalize the targets",
        "predictions too small for the targets",
    )
    needs = OUTCOME_NEEDS | SIMPLE_NEEDS | frozenset({"target_spread", "target_max", "output_spread"})
    causes = ("nonfinite_data",)
    repairs = ("scale_targets", "scale_learning_rate", "swap_optimizer")
    static = True
    THRESHOLDS = thresholds(
        spread=Threshold(30, "standard deviation of the targets", "calibrated"),
        offset=Threshold(30, "mean ÷ standard deviation", "calibrated"),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        targets = history.targets
        if context.kind(targets) != "regression" or targets.rows < 2 or context.loss.classifies:
            return None
        spread = math.sqrt(targets.variance) if targets.variance > 0 else 0.0
        offset = abs(targets.mean) / spread if spread > 0 else 0.0
        far = offset >= self.threshold("offset") and abs(targets.mean) >= _FROM_ZERO
        result = outcome(history, context)
        square = offset * offset
        away = square >= _DOMINANT and 1 - result.skill >= _LEFT * square  # outputs start at about 0
        tiny = 0 < spread <= 1 / self.threshold("spread") and result.high < 0
        mature = result.mature(self.threshold("schedule"))
        large = spread >= self.threshold("spread") or far
        short = not (large or away) and _falls_short(history, result.skill)
        if not large and not ((away or short or tiny) and mature):
            return None
        if result.learned(0.5) or (context.loss.own and measures_distance(history) is False):
            return None
        below_mean = result.mature(0.5) and result.high < 0  # half the training, and still worse than the mean
        # An absolute error falls like the root of the squared one
        below_mean |= (1 - result.skill) * (1 - min(1.0, result.to_come)) ** 2 > 1
        hopeless = result.stuck(0.1) and (result.to_come < 0.3 or below_mean)
        lead = lead_of_simple_model(history, context)
        behind = large and lead is not None and lead.gap >= _BEHIND
        poor = result.diverged or (hopeless and mature) or behind
        if not (large or away or poor):
            return None
        size = f"mean {about(targets.mean, 3)}, standard deviation {about(spread, 3)}"
        message = f"Targets are far from unit scale ({size})"
        if poor and result.words:
            message += f", and {result.words}"
        severity = Severity.ERROR if result.diverged else (result.worst if poor else Severity.WARNING)
        return self.finding(
            severity,
            0.85 if poor else 0.5,
            message + ".",
            {"target_std": spread, "target_mean": targets.mean, "offset": offset},
        )


def _falls_short(history: RunHistory, skill: float) -> bool:
    """Return whether the outputs are certainly less than half way from 0 to the mean of the targets, and not beyond it.

    The squared error is that of the means, and at most the square of the sum of both standard deviations.
    """
    targets = history.targets
    varies = float(last_median(history.scalar("output_spread")[:, None])[0])
    error, square = (1 - skill) * targets.variance, targets.mean * targets.mean  # a power would overflow
    widest = math.sqrt(targets.variance) + varies
    beyond = error > square + targets.variance
    return abs(targets.mean) >= _FROM_ZERO and error - widest * widest >= _LEFT * square and not beyond
