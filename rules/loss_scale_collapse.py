"""AT802: a mixed-precision loss scale that keeps falling because gradients overflow at every scale."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent

__all__ = ["LossScaleCollapse"]

_WINDOW = 100
"""Fewest steps over which skipped steps are counted."""


class LossScaleCollapse(Rule):
    """The loss scale of mixed precision keeps falling: gradients overflow at every scale.

    What it does
        Follows the factor by which loss and gradients are multiplied in half precision, from a `GradScaler` (PyTorch)
        or a `LossScaleOptimizer` (Keras).

    Why it hurts
        A step whose gradients overflow is skipped and halves the scale. One such step in thousands is how the scale is
        found. Many of them are lost work, and below a scale of 1, small gradients vanish that half precision could
        represent without scaling. If gradients are never finite, the model stands still, and no exception is raised.

    Evidence used
        The scale at sampled steps; how often it was halved gives the least number of skipped steps. Where no step
        completes any more, the scale at the end of an epoch or of the training. The outcome of the training.

    Thresholds
        ``lost``: scale up to which this is an error. ``scale``: scale below which it is a warning, or an error if the
        training diverges or stays at the trivial predictor's level. ``skipped``: skipped steps per completed step, over
        at least 100 steps of the last half of the run, so that the search for a scale at the beginning does not count.

    When it is wrong
        A scale that is lowered by hand on purpose looks the same. A scaler that reduces the scale by another factor
        than 2 skips more or fewer steps than reported. Scalers of other libraries are not seen.

    Repairs
        Single precision throughout. By hand: bfloat16 instead of float16, or exponentials, norms, losses and long sums
        in float32; and the root cause, if another finding names one.

    References
        Micikevicius et al., Mixed Precision Training, ICLR 2018 (arXiv 1710.03740), section 3.2; fairseq, which ends a
        training at a scale of 1e-4 (``min-loss-scale``); PyTorch, torch.amp.GradScaler.update: below 1, "something is
        likely wrong".
    """

    problem = "loss_scale_collapse"
    code = "AT802"
    aliases = ("loss_scale", "grad_scaler", "amp_scale", "skipped_steps", "mixed_precision", "float16_overflow")
    phrases = (
        "gradient overflow",
        "gradient overflow, skipping step",
        "loss scale keeps decreasing",
        "grad scaler goes to zero",
        "minimum loss scale reached",
        "fp16 training fails",
        "works in fp32 but not in fp16",
    )
    needs = OUTCOME_NEEDS | frozenset({"loss_scale"})
    causes = (
        "nonfinite_data",
        "nonfinite",
        "abnormal_data",
        "unscaled_targets",
        "learning_rate_too_high",
        "exploding_gradient",
        "divergence",
    )
    place = "step"
    repairs = ("raise_precision",)
    THRESHOLDS = thresholds(
        lost=Threshold(1e-4, "scale at which nothing can be trained any more", "fairseq"),
        scale=Threshold(1.0, "scale below which it is a warning", "PyTorch"),
        skipped=Threshold(0.05, "steps skipped for each step completed, at least", "convention: 5 in 100"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        scales = history.scalar("loss_scale")
        measured = scales[np.isfinite(scales)]
        latest = context.asked.get("loss_scale", math.nan)
        if not measured.size and math.isnan(latest):
            return None
        now = float(measured[-1]) if math.isnan(latest) else latest
        first = float(measured[0]) if measured.size else math.nan
        skipped = self._skipped(history, scales)
        evidence = {"loss_scale": now, "first_scale": first, "skipped_per_step": skipped}
        origin = f" ({first:g} at the start)" if first > now else ""
        message = f"The loss scale is only {now:.3g}{origin}: gradients overflow at every scale"
        if now <= self.threshold("lost"):
            message += ", and one step after another is skipped."
            return self.finding(Severity.ERROR, 0.95 if skipped > 0 else 0.9, message, evidence)
        result = outcome(history, context)
        if now < self.threshold("scale"):
            poor = result.known and result.stuck() and not result.moving()
            severity = Severity.ERROR if result.diverged else (result.worst if poor else Severity.WARNING)
            words = f"; {result.words}." if poor else "."
            return self.finding(severity, 0.8, message + words, evidence)
        if skipped >= self.threshold("skipped"):
            message = (
                f"Many steps are skipped because their scaled gradients overflow: {100 * skipped:.0f} for every 100 "
                f"completed; the loss scale is {now:.3g}{origin}."
            )
            return self.finding(Severity.WARNING, 0.7, message, evidence)
        return None

    def _skipped(self, history: RunHistory, scales: Floats) -> float:
        """Return how often the scale was halved for each step of the last half of the run; 0 for a short one."""
        late = recent(history.steps)
        steps, values = history.steps[late], scales[late]
        usable = np.isfinite(values) & (values > 0)
        steps, values = steps[usable], values[usable]
        if len(steps) < 2 or steps[-1] - steps[0] < _WINDOW:
            return 0.0
        halved = np.maximum(0.0, -np.diff(np.log2(values))).sum()
        return float(halved / (steps[-1] - steps[0]))
