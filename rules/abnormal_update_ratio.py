"""AT702: steps of a layer that are far too large or far too small for its weights."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.runaway import loss_rise
from autotrainer.rules._shared.steps import STEP_NEEDS, decay_share, steps_taken
from autotrainer.rules._shared.trends import geometric_mean, recent
from autotrainer.rules._shared.words import about

__all__ = ["AbnormalUpdateRatio"]

_SAMPLES = 10
"""Samples of the window, at least."""

_GOOD = 0.8
"""Skill from which the size of steps does not matter."""

_POOR = 0.7
"""Upper end of the interval of skill up to which a result is poor, as in `insufficient_capacity`."""

_SOME = 0.3
"""Skill, beyond doubt, from which a ratio alone, a symptom, tells nothing."""

_APART = 10.0
"""Ratio between a layer and the middle one from which that layer stands alone; else it is the rate of all."""

_SYMPTOM = 0.45
"""Confidence of a ratio alone: a symptom, which is named as the root of nothing."""

_SHRUNK = 0.7
"""Length of all weights ÷ that at the start from which a decay has evidently won: trained weights grow."""

_GONE, _LOST = 0.3, 2.0
"""Length of all weights ÷ that at the start, and loss ÷ its best level, with which what was learned decays again."""

_RESTED = 1e-4
"""First steps of a layer ÷ its weights from which it has been on its way: a tenth of the usual thousandth."""

_FADED = 0.1
"""Learning rate ÷ its highest below which steps are small by schedule."""


class AbnormalUpdateRatio(Rule):
    """Steps are far too large or far too small for the weights that they change, in some layers or in all.

    What it does
        Compares, for each layer over the last half of the run, the length of a step with that of the weights, and
        what weight decay alone takes away in a step.

    Why it hurts
        About a thousandth of the weights per step is usual. A layer that gets far more forgets what it has learned; one
        that gets far less hardly learns; and weights that decay faster than they learn keep nothing.

    Evidence used
        Geometric mean of each layer's update ratio over the last half of the run; learning rate × weight decay, and
        how far all weights have shrunk; skill over the trivial predictor; schedule of the learning rate.

    Thresholds
        ``high`` and ``low``: log10 of the update ratio; ``decay``: share of the weights that decay takes in a step;
        ``schedule``: share of the planned training from which it is judged.

    When it is wrong
        Nothing is told of a model that has learned well, nor of small steps at the end of a falling schedule or of
        layers that have made usual ones before: these may be at rest at an optimum. Ratios alone are a warning; they
        are an error only where a weight decay explains them and the result is poor. The rules on the learning rate
        give the reason where all layers are alike.

    Repairs
        Another optimizer without that decay, another learning rate, normalization.

    References
        Karpathy, CS231n notes and "makemore", 2022: log10 about -3; Kosson et al. 2023 (2305.17212); Wang and
        Aitchison 2024 (2405.13698): decay should average over at least an epoch.
    """

    problem = "abnormal_update_ratio"
    code = "AT702"
    aliases = ("update_ratio", "weight_decay_too_strong", "weight_decay_too_high")
    needs = OUTCOME_NEEDS | STEP_NEEDS
    causes = (
        "missing_zero_grad",
        "parameters_not_optimized",
        "wrong_schedule",
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "improper_loss",
        "poor_initialization",
        "abnormal_data",
        "unscaled_targets",
        "insufficient_capacity",
        "learning_rate_too_high",
        "learning_rate_too_low",
        "exploding_gradient",
    )
    repairs = ("swap_optimizer", "scale_learning_rate", "insert_normalization")
    THRESHOLDS = thresholds(
        high=Threshold(-1.5, "log10 of step ÷ weights, at least", "Karpathy", -math.inf),
        low=Threshold(-5, "log10 of step ÷ weights, at most", "Karpathy", -math.inf),
        decay=Threshold(0.003, "share of the weights that decays in a step", "300 steps: an epoch of few", 0, 1),
        schedule=Threshold(0.15, "share of the schedule before it is judged", "delay target of 20 %", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        if len(history.steps) < _SAMPLES or context.optimizer.several:
            return None
        result = outcome(history, context)
        if not result.known or result.learned(_GOOD) or not result.mature(self.threshold("schedule")):
            return None
        return self._by_decay(history, context, result) or self._by_ratio(history, result)

    def _by_decay(self, history: RunHistory, context: TaskContext, result: Outcome) -> Finding | None:
        """Find weights that decay faster than they learn."""
        rate = history.scalar("learning_rate")[-1]
        share = decay_share(context, float(rate if rate > 0 else context.optimizer.learning_rate))
        kept = steps_taken(history).kept
        if not share >= self.threshold("decay") or not kept <= _SHRUNK or result.moving(0.1):
            return None
        message = (
            f"A weight decay of {context.optimizer.weight_decay:g} takes {share:.1%} of the weights away in each step: "
            f"they are down to {about(kept)} of their size, and {result.words} after {result.steps} steps."
        )
        evidence = {"decay": share, "weights_kept": kept, "skill_high": result.high}
        # What has some skill may be as good as noisy data allow, unless it was better before.
        poor = not result.high > _POOR or (kept <= _GONE and loss_rise(history) >= _LOST)
        return self.finding(result.worst if poor else Severity.WARNING, 0.85 if poor else 0.5, message, evidence)

    def _by_ratio(self, history: RunHistory, result: Outcome) -> Finding | None:
        """Find layers whose steps do not fit them."""
        rows = weight_layers(history)
        ratios = history.layer("update_ratio")[recent(history.steps, least=_SAMPLES)][:, rows]
        typical = geometric_mean(ratios)
        known = typical > 0  # no step at all is for no_gradient to tell
        if not known.any() or result.learned(_SOME) or result.moving(0.1):
            return None
        rows, logs = [row for row, there in zip(rows, known, strict=True) if there], np.log10(typical[known])
        high, low = logs >= self.threshold("high"), logs <= self.threshold("low")
        # Layers that have made usual steps are at rest now, or near it: gradients fade at an optimum.
        low &= ~(geometric_mean(history.layer("update_ratio")[:_SAMPLES, rows]) > _RESTED) & (not _faded(history))
        if not (high | low).any():
            return None
        alone = np.abs(logs - np.median(logs)) >= math.log10(_APART)
        if (alone & (high | low)).any():
            high, low = high & alone, low & alone
        hit = high if high.any() else low
        found = [row for row, there in zip(rows, hit, strict=True) if there]
        worst = int(np.argmax(np.where(hit, np.abs(logs + 3), -np.inf)))
        where = "all layers" if hit.all() else f"layer {history.layers[rows[worst]].name}"
        size = 10.0 ** float(logs[worst])
        message = f"A step changes the weights of {where} by {about(size, 1)} of their size, and {result.words}."
        evidence = {"update_ratio": size, "middle_update_ratio": 10.0 ** float(np.median(logs)), "skill": result.skill}
        return self.finding(Severity.WARNING, _SYMPTOM, message, evidence, layers=names(history, found))


def _faded(history: RunHistory) -> bool:
    """Whether a schedule has brought the learning rate down to next to nothing."""
    rates = history.scalar("learning_rate")
    rates = rates[np.isfinite(rates)]
    return len(rates) > 0 and bool(rates[-1] < _FADED * rates.max())
