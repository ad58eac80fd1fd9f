"""AT802: a loss scale of mixed precision that falls and falls, because gradients overflow at every scale."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent

__all__ = ["LossScaleCollapse"]

_WINDOW = 100
"""Steps over which steps that were given up are counted, at least: the catalogue counts five in a hundred."""


class LossScaleCollapse(Rule):
    """The loss scale of half precision falls again and again: gradients overflow at any scale.

    What it does
        Follows the number that loss and gradients are multiplied by in half precision, of a `GradScaler` (PyTorch) or
        a `LossScaleOptimizer` (Keras).

    Why it hurts
        A step whose gradients overflow is given up and halves the scale. One such step in thousands is how the scale
        is found; many of them are lost work, and below a scale of 1 small gradients vanish that half precision could
        hold before. With gradients that are never finite the model stands still, and no exception says so.

    Evidence used
        The scale at sampled steps. How often it was halved tells how many steps were given up, at least. Where no step
        follows any more, the scale at the end of an epoch or of the training; and the outcome.

    Thresholds
        ``lost``: scale up to which it is an error; ``scale`` below which it is a warning, and an error with a training
        that diverges or stays at the trivial predictor's level; ``skipped``: steps given up for each one taken, over
        at least 100 steps of the last half of the run, without those by which the scale is found in the beginning.

    When it is wrong
        A scale that is lowered by hand on purpose looks the same, and a scaler that halves by another factor than 2
        gives up more or fewer steps than are told. Scalers of other libraries are not seen.

    Repairs
        Single precision throughout. By hand: bfloat16 in place of float16, or exponentials, norms, losses and long
        sums in float32; and the root, where another finding names one.

    References
        Micikevicius et al., Mixed Precision Training, ICLR 2018 (arXiv 1710.03740), section 3.2; fairseq, which ends a
        training at a scale of 1e-4 (``min-loss-scale``); PyTorch, torch.amp.GradScaler.update: below 1, "something is
        likely wrong".
    """

    problem = "loss_scale_collapse"
    code = "AT802"
    aliases = ("loss_scale", "grad_scaler", "amp_scale", "skipped_steps", "mixed_precision", "float16_overflow")
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
        scale=Threshold(1.0, "scale worth a warning below it", "PyTorch"),
        skipped=Threshold(0.05, "steps given up for each step taken, at least", "catalogue: 5 in 100"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        scales = history.scalar("loss_scale")
        known = np.isfinite(scales)
        told = context.asked.get("loss_scale", math.nan)
        measured = scales[known]
        if not measured.size and math.isnan(told):
            return None
        now = float(measured[-1]) if math.isnan(told) else told
        first = float(measured[0]) if measured.size else math.nan
        skipped = self._skipped(history, scales)
        evidence = {"loss_scale": now, "first_scale": first, "skipped_per_step": skipped}
        came = f" ({first:g} at the start)" if first > now else ""
        message = f"The loss scale is {now:.3g}{came}: gradients overflow at any scale"
        if now <= self.threshold("lost"):
            message += ", and steps are given up one after the other."
            return self.finding(Severity.ERROR, 0.95, message, evidence)
        result = outcome(history, context)
        if now < self.threshold("scale"):
            poor = result.known and result.stuck() and not result.moving()
            severity = Severity.ERROR if result.diverged else (result.worst if poor else Severity.WARNING)
            words = f"; {result.words}." if poor else "."
            return self.finding(severity, 0.8, message + words, evidence)
        if skipped >= self.threshold("skipped"):
            message = (
                f"For every 100 steps taken, {100 * skipped:.0f} were given up because their scaled gradients "
                f"overflowed; the loss scale is {now:.3g}{came}."
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
