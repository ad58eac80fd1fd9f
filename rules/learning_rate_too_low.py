"""AT409: steps that are too small to make progress within the schedule."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, enough_samples, outcome
from autotrainer.rules._shared.steps import STEP_NEEDS, clipped_norm, rate_rises, step_per_gradient, steps_taken

__all__ = ["LearningRateTooLow"]

_FAIR, _GOOD = 0.3, 0.8
"""Skill from which the pace was evidently sufficient, and from which it does not matter."""

_UNMOVED = 0.02
"""Change of the weights by the end ÷ their norm up to which they are unchanged: any skill was there at the start."""

_CERTAIN = 0.05
"""Distance that the weights move by the end ÷ their norm up to which it is an error: 1 ÷ √400. Layers of that width
reach their optimum with hardly more (Jacot et al. 2018), and noisy data may allow no better score there."""

_FALLS = 0.05
"""Fall of the loss over the last half of the run from which training evidently still progresses."""

_SHORT = 0.1
"""Norm of a step of SGD ÷ (rate × gradient norm) that only clipping explains."""

_FEW_STEPS = 60
"""Steps of a whole schedule below which the schedule itself is too short."""

_USUAL = 1e-3
"""Usual learning rate of adaptive optimizers; ten times that for SGD. From there on, small steps have other reasons."""


class LearningRateTooLow(Rule):
    """The learning rate is too low: the weights hardly move from their initial values within the schedule.

    What it does
        Sums the norms of the steps to the end of the schedule and compares the result with the norm of the weights.

    Why it hurts
        However well each step descends, the training ends long before the model is good.

    Evidence used
        Norm of the sampled steps relative to all weights: an upper bound on how far they can move; skill over the
        trivial predictor with its interval; a loss that still falls; the learning rate, and a norm to which gradients
        are evidently clipped.

    Thresholds
        ``travel``: distance that the weights move by the end of the schedule ÷ their norm, at most; ``step``: median
        step ÷ weights, at most; ``schedule``: share of the planned training from which it is judged.

    When it is wrong
        Wide networks learn with small relative changes, and so do pretrained ones: a model that is good, or has settled
        with a fair score, is not reported. Rates that are still rising (warm-up) are not judged, and a usual rate is
        not called low because gradients have vanished. Without a known schedule it is a warning, and so it is for a
        distance of more than 0.05, which can suffice for wide layers if noisy data allow no better score.

    Repairs
        Ten times the rate, another optimizer at its usual rate, or clipping to a larger norm or none.

    References
        Smith, WACV 2017 (1506.01186); Karpathy, CS231n notes (update ratio about 1e-3); Jacot et al., NeurIPS 2018.
    """

    problem = "learning_rate_too_low"
    code = "AT409"
    aliases = ("lr_too_low", "low_learning_rate", "learning_rate_low", "clipping_too_small")
    phrases = (
        "learning rate too low",
        "learning rate too small",
        "loss decreases too slowly",
        "weights barely change",
        "model barely learns",
    )
    needs = OUTCOME_NEEDS | STEP_NEEDS | frozenset({"gradient_factor", "backward_passes"})
    causes = (
        "parameters_not_optimized",
        "sibling_outlier",
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "improper_loss",
        "poor_initialization",
        "abnormal_data",
        "unscaled_targets",
        "wrong_schedule",
        "wrong_accumulation",
    )
    repairs = ("scale_learning_rate", "swap_optimizer", "add_momentum", "extend_training")
    place = "optimizer"
    THRESHOLDS = thresholds(
        travel=Threshold(
            0.2, "distance that the weights move by the end ÷ their norm", "calibrated: healthy ones go further"
        ),
        step=Threshold(6e-4, "median step ÷ weights, at most", "below the usual 1e-3"),
        schedule=Threshold(
            0.15,
            "share of the schedule before a verdict",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not enough_samples(history):
            return None
        steps = steps_taken(history)
        if not 0 < steps.typical <= self.threshold("step") or rate_rises(history):
            return None
        if (history.scalar("grad_norm") == 0).all():
            return None  # weight decay alone moves the weights
        result = outcome(history, context)
        share = 0.5 if math.isnan(result.progress) else result.progress
        travel = steps.travel / share
        if not travel <= self.threshold("travel") or not result.known or not result.mature(self.threshold("schedule")):
            return None
        if 0 < result.planned < _FEW_STEPS or not self._poor(result, travel):
            return None
        evidence = {
            "travel": travel,
            "typical_step": steps.typical,
            "learning_rate": context.optimizer.learning_rate,
            "skill": result.skill,
            "progress": result.progress,
        }
        reason = self._reason(history, context, evidence)
        if not reason:
            return None
        message = (
            f"{reason}: a step changes the weights by {steps.typical:.1g} times their norm, all steps of the schedule "
            f"by at most {travel:.1%}, and {result.words} after {result.steps} steps."
        )
        certain = travel <= _CERTAIN
        return self.finding(result.worst if certain else Severity.WARNING, 0.88 if certain else 0.5, message, evidence)

    def _poor(self, result: Outcome, travel: float) -> bool:
        """Return whether the outcome is poor enough to blame the small steps."""
        progressing = travel <= self.threshold("travel") / 2 and result.fell >= _FALLS and result.mature(0.2)
        enough = _GOOD if travel <= _UNMOVED or progressing else _FAIR
        expected = result.skill + (1 - result.skill) * min(1.0, result.to_come)
        return not (result.learned(enough) or expected > enough)

    @staticmethod
    def _reason(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> str:
        """Return why steps are small, as a clause: a low rate, or clipped gradients; else an empty string."""
        optimizer = context.optimizer
        rate = f" of {optimizer.learning_rate:.3g}" if math.isfinite(optimizer.learning_rate) else ""
        clipped = clipped_norm(history)
        if not math.isnan(clipped):
            evidence["clipped_norm"] = clipped
            return f"The learning rate{rate} is too low for gradients that are clipped to a norm of {clipped:.2g}"
        # A sum over batches may be divided by their number: that is no clipping.
        factors = history.scalar("gradient_factor") * np.fmax(history.scalar("backward_passes"), 1.0)
        factor = float(np.median(factors[np.isfinite(factors)])) if np.isfinite(factors).any() else 1.0
        if optimizer.name == "sgd" and (share := float(np.fmin(step_per_gradient(history), factor))) <= _SHORT:
            evidence["of_gradient"] = share
            return f"The learning rate{rate} is too low for gradients that are clipped to {share:.1g} of their norm"
        usual = 10 * _USUAL * (1 - optimizer.momentum) if optimizer.name == "sgd" else _USUAL
        return "" if optimizer.learning_rate >= usual else f"The learning rate{rate} is too low"
