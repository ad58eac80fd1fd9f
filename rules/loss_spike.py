"""AT304: a loss that jumps up for several steps."""

from __future__ import annotations

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.words import about

__all__ = ["LossSpike"]

_WINDOW, _CLEAN, _RUN = 128, 64, 5
"""Losses that a spike is compared with, the fewest of them, and losses whose median must be high: a single hard batch
is not a spike."""

_SCANNED = 1024
"""Latest losses that are examined: earlier evaluations have judged the others."""

_CANDIDATES = 3
"""Largest rises that are compared with the scatter before them."""

_RESTART = 1.5
"""Rise of the learning rate around a spike from which a restart of the schedule explains it."""


class LossSpike(Rule):
    """The loss jumps far above its usual scatter and stays there for several steps.

    What it does
        Compares medians of five losses with the 128 losses before them.

    Why it hurts
        Part of what was learned is lost and must be learned again; some trainings never recover.

    Evidence used
        Losses of single steps (the latest 1,024, in the last half of the run): one-sided robust z-score of the median
        of five, on a logarithmic scale too, its size relative to the loss before it and to that of the untrained model;
        the learning rate around it; whether the loss has recovered.

    Thresholds
        ``z``: robust standard deviations; ``rise``: rise ÷ the loss before, at least; ``whole``: rise ÷ the loss of the
        untrained model, at least; ``skill``: skill over the trivial predictor from which spikes did no harm.

    When it is wrong
        Data in a fixed order (sorted by class or by difficulty) looks the same. Restarts of the learning rate and
        adversarial training are left out; single hard batches do not count. It is always a warning: a loss that does
        not recover is `divergence`.

    Repairs
        Gradient clipping, or a lower learning rate.

    References
        OLMo 2, 2025 (2501.00656), section 3.1; OLMo-core's SpikeDetector: z > 6 over 128 after 64 clean steps.
    """

    problem = "loss_spike"
    code = "AT304"
    aliases = ("loss_spikes", "loss_jump")
    phrases = (
        "loss spikes",
        "sudden spike in loss",
        "loss suddenly jumps",
        "loss suddenly increases",
        "training loss spike",
    )
    needs = OUTCOME_NEEDS | frozenset({"learning_rate"})
    causes = (
        "missing_zero_grad",
        "nonfinite_data",
        "target_mismatch",
        "unscaled_targets",
        "abnormal_data",
        "unshuffled_data",
        "learning_rate_too_high",
        "exploding_gradient",
        "attention_entropy_collapse",
        "stale_second_moment",
        "gradient_spike",
    )
    repairs = ("clip_gradients", "skip_update", "scale_learning_rate", "tune_adam", "warm_up_learning_rate", "rollback")
    place = "loss"
    THRESHOLDS = thresholds(
        z=Threshold(6, "robust standard deviations above the median", "OLMo-core", 1),
        rise=Threshold(0.5, "rise ÷ the loss before", "a rise by half"),
        whole=Threshold(0.2, "rise ÷ the loss of the untrained model", "relevant for the result"),
        skill=Threshold(0.8, "skill from which spikes are not reported", "as in oscillating_loss", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        steps, losses = history.losses
        first = losses[:_RUN]
        begin = max(len(losses) - _SCANNED, int(np.searchsorted(steps, history.step / 2)) - _WINDOW, 0)
        steps, losses = steps[begin:], losses[begin:]
        if len(losses) < _CLEAN + _RUN or not np.isfinite(losses).all() or context.optimizer.several:
            return None
        untrained = abs(float(np.median(first)))
        if not untrained > 0:
            return None
        steps, losses = steps[len(losses) % _RUN :], losses[len(losses) % _RUN :]
        spike = self._spike(losses, untrained)
        if spike is None:
            return None
        start, before, z = spike
        if self._restarted(history, int(steps[start])) or outcome(history, context).learned(self.threshold("skill")):
            return None
        top = float(losses[start:].max())
        now = float(np.median(losses[-_RUN:]))
        back = now <= before + 0.5 * (top - before)
        evidence = {"spike_step": float(steps[start]), "before": before, "highest": top, "now": now, "z": z}
        after = "has since returned to" if back else "is still"
        message = (
            f"The loss jumped from {about(before, 3)} to {about(top, 3)} at step {steps[start]} and {after} "
            f"{about(now, 3)}."
        )
        return self.finding(Severity.WARNING, 0.5 if back else 0.7, message, evidence)

    def _spike(self, losses: Floats, untrained: float) -> tuple[int, float, float] | None:
        """Return the index at which the largest spike begins, the loss before it and its z-score; None without one.

        Candidates are medians of five losses that exceed all of the 25 medians before them.
        """
        levels = np.sort(losses.reshape(-1, _RUN), axis=1)[:, _RUN // 2]
        clean, window = -(-_CLEAN // _RUN), _WINDOW // _RUN
        padded = np.concatenate([np.full(window, -np.inf), levels])
        before = np.lib.stride_tricks.sliding_window_view(padded, window)[:-1].max(axis=1)
        rise = levels - before
        rise[:clean] = -np.inf
        for block in np.argsort(-rise)[:_CANDIDATES]:
            if rise[block] < self.threshold("whole") * untrained:
                return None
            usual, level = losses[max(0, block - window) * _RUN : block * _RUN], float(levels[block])
            middle = float(np.median(usual))
            z = _robust_z(level, usual)
            if (usual > 0).all():  # small batches scatter by factors, far more above the median than below it
                z = min(z, _robust_z(np.log(level), np.log(usual)))
            if z >= self.threshold("z") and level - middle >= self.threshold("rise") * abs(middle):
                return int(block) * _RUN, middle, z
        return None

    @staticmethod
    def _restarted(history: RunHistory, step: int) -> bool:
        """Return whether the learning rate has risen around a step."""
        rates = history.scalar("learning_rate")
        near = (history.steps >= step - 2 * _WINDOW) & (history.steps <= step + _CLEAN) & (rates > 0)
        rates = rates[near]
        return len(rates) > 1 and bool((rates / np.minimum.accumulate(rates)).max() >= _RESTART)


def _robust_z(value: float, usual: Floats) -> float:
    """Return how many robust standard deviations a value lies above the median of the usual ones."""
    middle = float(np.median(usual))
    scatter = 1.4826 * float(np.median(np.abs(usual - middle)))
    return (value - middle) / scatter if scatter > 0 else np.inf
