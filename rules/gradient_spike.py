"""AT103: single gradients far above all others."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent
from autotrainer.rules._shared.words import about

__all__ = ["GradientSpike"]

_SAMPLES = 16
"""Samples in the last half of the run from which their usual scatter is known."""

_SCATTER = 0.1
"""Least scatter of the logarithm: gradients of one and the same training differ by a tenth anyway."""

_FIRST = 10
"""Samples whose gradients are those of an untrained model."""


class GradientSpike(Rule):
    """Single gradients are far larger than all others, and larger than those of the untrained model.

    What it does
        Looks in the last half of the run for gradient norms far outside their usual scatter.

    Why it hurts
        One such step undoes many good ones. Adaptive optimizers feel it for as long as their averages last, and where
        spikes become more frequent divergence is near.

    Evidence used
        Total gradient norm of the sampled steps, on a logarithmic scale: robust z against median and median absolute
        deviation, ratio to the median, and ratio to the largest gradient of the first steps. The share of samples
        with a spike is the spike score of OLMo 2.

    Thresholds
        ``z``: robust standard deviations; ``ratio``: norm ÷ median norm, at least; ``skill``: skill over the trivial
        predictor from which spikes do no harm.

    When it is wrong
        A model that fits its data well has tiny gradients and now and then one for a hard sample: those are no larger
        than the first gradients of the run, and don't count. Adversarial trainings with several optimizers are not
        judged. Always a warning; nothing where gradients are clipped, for they are seen after that.

    Repairs
        Gradient clipping, a lower learning rate.

    References
        Kumar et al., ZClip, 2025 (2504.02507); OLMo 2, 2025 (2501.00656), section 3.
    """

    problem = "gradient_spike"
    code = "AT103"
    aliases = ("gradient_spikes", "spiky_gradient")
    needs = OUTCOME_NEEDS
    causes = (
        "missing_zero_grad",
        "nonfinite_data",
        "target_mismatch",
        "unscaled_targets",
        "abnormal_data",
        "learning_rate_too_high",
    )
    repairs = ("clip_gradients", "skip_update", "scale_learning_rate", "tune_adam", "warm_up_learning_rate")
    place = "step"
    THRESHOLDS = thresholds(
        z=Threshold(7, "robust standard deviations above the median", "OLMo 2: spike score", 1),
        ratio=Threshold(10, "gradient norm ÷ its median", "that of exploding_gradient", 1),
        skill=Threshold(0.8, "skill from which they are not told", "that of oscillating_loss", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        norms = history.scalar("grad_norm")
        window = recent(history.steps)
        late = norms[window]
        usable = np.isfinite(late) & (late > 0)
        if usable.sum() < _SAMPLES or context.optimizer.several:
            return None
        steps, logs = history.steps[window][usable], np.log(late[usable])
        middle = float(np.median(logs))
        scatter = max(1.4826 * float(np.median(np.abs(logs - middle))), _SCATTER)
        first = norms[:_FIRST]
        first = first[np.isfinite(first) & (first > 0)]
        least = max(middle + self.threshold("z") * scatter, middle + np.log(self.threshold("ratio")))
        least = max(least, float(np.log(first).max(initial=-np.inf)))
        found = logs > least
        # Where the gradients stay up it is no spike but growth, which other rules judge.
        if not found.any() or found.mean() > 0.25 or found[-1]:
            return None
        if outcome(history, context).learned(self.threshold("skill")):
            return None
        worst = int(np.argmax(logs))
        times = float(np.exp(logs[worst] - middle))
        evidence = {
            "spike_step": float(steps[worst]),
            "ratio": times,
            "z": (float(logs[worst]) - middle) / scatter,
            "spike_score": float(found.mean()),
            "usual_grad_norm": float(np.exp(middle)),
        }
        message = (
            f"The gradient norm of step {steps[worst]} was {about(times)} times the usual one, and {found.sum()} of "
            f"the last {len(logs)} sampled steps were such spikes."
        )
        return self.finding(Severity.WARNING, 0.6, message, evidence, layers=self._layers(history, int(steps[worst])))

    @staticmethod
    def _layers(history: RunHistory, step: int) -> tuple[str, ...]:
        """Return the layer with the largest gradient at a step."""
        rows = weight_layers(history)
        norms = history.layer("grad_norm")[np.searchsorted(history.steps, step), rows]
        return names(history, [rows[int(np.nanargmax(norms))]]) if rows and not np.isnan(norms).all() else ()
