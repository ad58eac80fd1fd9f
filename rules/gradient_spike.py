"""AT103: single gradients far larger than all others."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent
from autotrainer.rules._shared.words import about

__all__ = ["GradientSpike"]

_SAMPLES = 16
"""Fewest samples in the last half of the run that show the usual scatter."""

_SCATTER = 0.1
"""Smallest scatter of the logarithm: gradients of any training differ by a tenth."""

_FIRST = 10
"""First samples, whose gradients are those of the untrained model."""


class GradientSpike(Rule):
    """Single gradients are far larger than all others, and larger than those of the untrained model.

    What it does
        Looks for gradient norms far outside their usual scatter in the last half of the run.

    Why it hurts
        One such step can undo many good ones. It stays in the averages of adaptive optimizers for a long time, and
        spikes that become more frequent announce divergence.

    Evidence used
        Total gradient norm of the sampled steps on a logarithmic scale: robust z-score from median and median absolute
        deviation, ratio to the median, and ratio to the largest gradient of the first steps. The share of samples with
        a spike is the spike score of OLMo 2.

    Thresholds
        ``z``: robust standard deviations; ``ratio``: norm ÷ median norm, at least; ``skill``: skill over the trivial
        predictor from which spikes do no harm.

    When it is wrong
        A model that fits its data well has tiny gradients, with an occasional larger one for a hard sample: those are
        no larger than the first gradients of the run and do not count. Adversarial training with several optimizers is
        not judged. It is always a warning; if gradients are clipped, spikes are not visible, as the norm is measured
        afterwards.

    Repairs
        Gradient clipping, or a lower learning rate.

    References
        Kumar et al., ZClip, 2025 (2504.02507); OLMo 2, 2025 (2501.00656), section 3.
    """

    problem = "gradient_spike"
    code = "AT103"
    aliases = ("gradient_spikes", "spiky_gradient")
    phrases = ("gradient spikes", "gradient norm spikes", "sudden large gradient", "gradient norm suddenly jumps")
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
        ratio=Threshold(10, "gradient norm ÷ its median", "as in exploding_gradient", 1),
        skill=Threshold(0.8, "skill from which spikes are not reported", "as in oscillating_loss", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
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
        spikes = logs > least
        # Gradients that stay large are not a spike but growth, which other rules judge.
        if not spikes.any() or spikes.mean() > 0.25 or spikes[-1]:
            return None
        if outcome(history, context).learned(self.threshold("skill")):
            return None
        worst = int(np.argmax(logs))
        times = float(np.exp(logs[worst] - middle))
        evidence = {
            "spike_step": float(steps[worst]),
            "ratio": times,
            "z": (float(logs[worst]) - middle) / scatter,
            "spike_score": float(spikes.mean()),
            "usual_grad_norm": float(np.exp(middle)),
        }
        message = (
            f"The gradient norm jumped to {about(times)} times its usual value at step {steps[worst]} (spikes in "
            f"{spikes.sum()} of the last {len(logs)} sampled steps)."
        )
        return self.finding(Severity.WARNING, 0.6, message, evidence, layers=self._layers(history, int(steps[worst])))

    @staticmethod
    def _layers(history: RunHistory, step: int) -> tuple[str, ...]:
        """Return the layer with the largest gradient at a step."""
        rows = weight_layers(history)
        norms = history.layer("grad_norm")[np.searchsorted(history.steps, step), rows]
        return names(history, [rows[int(np.nanargmax(norms))]]) if rows and not np.isnan(norms).all() else ()
