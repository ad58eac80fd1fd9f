"""AT409: steps that are too small to get anywhere within the schedule."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.steps import STEP_NEEDS, clipped_norm, rate_rises, step_per_gradient, steps_taken

__all__ = ["LearningRateTooLow"]

_FAIR, _GOOD = 0.3, 0.8
"""Skill from which the pace has evidently sufficed; and from which it does not matter."""

_STANDING = 0.02
"""Change of the weights by the end ÷ their size with which they stay what they were: skill was there at the start."""

_SURE = 0.05
"""Way of the weights by the end ÷ their size up to which it is an error: 1 ÷ √400. Layers as wide as that get to their
optimum with hardly more (Jacot et al. 2018), and noisy data may allow no better score there."""

_FALLS = 0.05
"""Fall of the loss over the last half of the run from which a model is evidently still on its way."""

_SHORT = 0.1
"""Length of a step of SGD ÷ (rate × gradient) that only a clipping explains."""

_FEW_STEPS = 60
"""Steps of a whole schedule below which it is the schedule that is too short."""

_USUAL = 1e-3
"""Usual learning rate of adaptive optimizers; ten times that for SGD. From there on small steps have other reasons."""


class LearningRateTooLow(Rule):
    """The learning rate is too low: the weights hardly leave their start within the schedule.

    What it does
        Adds up the length of the steps to the end of the schedule, and compares it with the size of the weights.

    Why it hurts
        However well each step descends, the training ends long before the model is good.

    Evidence used
        Length of the sampled steps relative to all weights: an upper bound on how far these can get; skill over the
        trivial predictor with its interval; a loss that still falls; the learning rate, and a norm to which gradients
        are evidently clipped.

    Thresholds
        ``travel``: way of the weights by the end of the schedule ÷ their size, at most; ``step``: median step ÷
        weights, at most; ``schedule``: share of the planned training from which it is judged.

    When it is wrong
        Wide networks learn with small relative changes, and so do pretrained ones: what is good, or has settled with a
        fair score, is left alone. Rates that are still rising (warm-up) are not judged, and a usual rate is not called
        low because gradients have vanished. Without a known schedule it is a warning, and so it is for a way of more
        than 0.05, with which wide layers can be where noisy data let them.

    Repairs
        Ten times the rate, another optimizer with its usual rate; no clipping, or to a larger norm.

    References
        Smith, WACV 2017 (1506.01186); Karpathy, CS231n notes (update ratio about 1e-3); Jacot et al., NeurIPS 2018.
    """

    problem = "learning_rate_too_low"
    code = "AT409"
    aliases = ("lr_too_low", "low_learning_rate", "learning_rate_low", "clipping_too_small")
    needs = OUTCOME_NEEDS | STEP_NEEDS
    causes = (
        "parameters_not_optimized",
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "improper_loss",
        "poor_initialization",
        "abnormal_data",
        "unscaled_targets",
        "wrong_schedule",
    )
    repairs = ("scale_learning_rate", "swap_optimizer", "add_momentum", "extend_training")
    place = "step"
    THRESHOLDS = thresholds(
        travel=Threshold(0.2, "way of the weights by the end ÷ their size", "calibrated: healthy ones go further"),
        step=Threshold(6e-4, "median step ÷ weights, at most", "below the usual 1e-3"),
        schedule=Threshold(0.15, "share of the schedule before it is judged", "delay target of 20 %", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        if len(history.steps) < 10:
            return None
        steps = steps_taken(history)
        if not 0 < steps.typical <= self.threshold("step") or rate_rises(history):
            return None
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
        what = self._reason(history, context, evidence)
        if not what:
            return None
        message = (
            f"{what}: a step changes the weights by {steps.typical:.1g} of their size, all steps of the schedule by at "
            f"most {travel:.1%}, and {result.words} after {result.steps} steps."
        )
        sure = travel <= _SURE
        return self.finding(result.worst if sure else Severity.WARNING, 0.88 if sure else 0.5, message, evidence)

    def _poor(self, result: Outcome, travel: float) -> bool:
        """Whether the outcome is poor, and the small steps can be why: the shorter the way, the more of it."""
        on_its_way = travel <= self.threshold("travel") / 2 and result.fell >= _FALLS and result.mature(0.2)
        enough = _GOOD if travel <= _STANDING or on_its_way else _FAIR
        expected = result.skill + (1 - result.skill) * min(1.0, result.to_come)
        return not (result.learned(enough) or expected > enough)

    @staticmethod
    def _reason(history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> str:
        """Return in words why steps are small: a low rate, or gradients that are clipped; else an empty string."""
        optimizer = context.optimizer
        rate = f" of {optimizer.learning_rate:.3g}" if math.isfinite(optimizer.learning_rate) else ""
        clipped = clipped_norm(history)
        if not math.isnan(clipped):
            evidence["clipped_norm"] = clipped
            return f"The learning rate{rate} is too low for gradients that are clipped to {clipped:.2g}"
        if optimizer.name == "sgd" and (left := step_per_gradient(history)) <= _SHORT:
            evidence["of_gradient"] = left
            return f"The learning rate{rate} is too low for gradients that are clipped to {left:.1g} of their size"
        usual = 10 * _USUAL * (1 - optimizer.momentum) if optimizer.name == "sgd" else _USUAL
        return "" if optimizer.learning_rate >= usual else f"The learning rate{rate} is too low"
