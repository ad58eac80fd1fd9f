"""AT702: optimizer steps that are far too large or too small for a layer's weights."""

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
"""Fewest samples in the window of update ratios."""

_FEWEST = 5
"""Fewest samples that show that the weights shrink."""

_GOOD = 0.8
"""Skill from which the size of steps does not matter."""

_POOR = 0.7
"""Upper end of the skill interval up to which a result is poor, as in `insufficient_capacity`."""

_SOME = 0.3
"""Skill, beyond doubt, from which a ratio alone is no evidence: it is only a symptom."""

_APART = 10.0
"""Factor between a layer's update ratio and the median one from which that layer stands out; else the learning rate
of all layers is off."""

_SYMPTOM = 0.45
"""Confidence where only the ratio is off: too low to be named as the root cause of anything."""

_SHRUNK = 0.7
"""Norm of all weights ÷ its initial value up to which decay has evidently won: training makes weights grow."""

_FORGOTTEN_NORM, _FORGOTTEN_LOSS = 0.3, 2.0
"""Norm of all weights ÷ its initial value, and loss ÷ its best level, at which what was learned decays again."""

_TRAINED = 1e-4
"""Update ratio of a layer's first steps from which the layer has trained before: a tenth of the usual thousandth."""

_FADED = 0.1
"""Learning rate ÷ its maximum below which steps are small by schedule."""


class AbnormalUpdateRatio(Rule):
    """Optimizer steps are far too large or too small for the weights that they change, in some layers or in all.

    What it does
        Compares, for each layer over the last half of the run, the norm of a step with the norm of the weights. Also
        checks how much of the weights weight decay alone removes in a step.

    Why it hurts
        A step usually changes weights by about a thousandth. A layer that changes far more forgets what it has learned,
        one that changes far less hardly learns, and weights that decay faster than they learn retain nothing.

    Evidence used
        Geometric mean of each layer's update ratio (norm of the step ÷ norm of the weights) over the last half of the
        run; learning rate × weight decay, and how far the weights have shrunk; skill relative to the trivial predictor;
        the learning-rate schedule.

    Thresholds
        ``high`` and ``low``: log10 of the update ratio. ``decay``: share of the weights that decay removes in a step.
        ``schedule``: share of the planned training before this is judged.

    When it is wrong
        Nothing is reported for a model that has learned well, for small steps at the end of a falling schedule, or for
        layers that made steps of usual size before: these may have converged. The ratio alone gives a warning; it is an
        error only where weight decay explains it and the result is poor. Where all layers are alike, the rules on the
        learning rate name the cause.

    Repairs
        Use a usual weight decay, another learning rate, or normalization layers.

    References
        Karpathy, CS231n notes and "makemore", 2022: log10 about -3; Kosson et al. 2023 (2305.17212); Wang and Aitchison
        2024 (2405.13698): decay should average over at least an epoch.
    """

    problem = "abnormal_update_ratio"
    code = "AT702"
    aliases = ("update_ratio", "weight_decay_too_strong", "weight_decay_too_high")
    phrases = (
        "too much weight decay",
        "weights shrink to zero",
        "weight updates too small",
        "weight updates too large",
        "update to weight ratio",
    )
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
    repairs = ("weaken_regularization", "swap_optimizer", "scale_learning_rate", "insert_normalization")
    THRESHOLDS = thresholds(
        high=Threshold(-1.5, "log10 of step ÷ weights, at least", "Karpathy", -math.inf),
        low=Threshold(-5, "log10 of step ÷ weights, at most", "Karpathy", -math.inf),
        decay=Threshold(0.003, "share of the weights that decays in a step", "300 steps: a short epoch", 0, 1),
        schedule=Threshold(
            0.15,
            "share of the schedule before it is judged",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if len(history.steps) < _FEWEST or context.optimizer.several:
            return None
        result = outcome(history, context)
        if not result.known or result.learned(_GOOD) or not result.mature(self.threshold("schedule")):
            return None
        by_decay = self._by_decay(history, context, result)
        return by_decay or (self._by_ratio(history, result) if len(history.steps) >= _SAMPLES else None)

    def _by_decay(self, history: RunHistory, context: TaskContext, result: Outcome) -> Finding | None:
        rate = _usual_rate(history)
        share = decay_share(context, rate if rate > 0 else context.optimizer.learning_rate)
        kept = steps_taken(history).kept
        if not share >= self.threshold("decay") or not kept <= _SHRUNK or result.moving(0.1):
            return None
        message = (
            f"A weight decay of {context.optimizer.weight_decay:g} is too strong: it removes {share:.1%} of the "
            f"weights in each step and has shrunk them to {about(kept)} times their initial norm; {result.words} after "
            f"{result.steps} steps."
        )
        evidence = {"decay": share, "weights_kept": kept, "skill_high": result.high}
        # A model with some skill may be as good as noisy data allow, unless it was better before.
        poor = not result.high > _POOR or (kept <= _FORGOTTEN_NORM and loss_rise(history) >= _FORGOTTEN_LOSS)
        return self.finding(result.worst if poor else Severity.WARNING, 0.85 if poor else 0.5, message, evidence)

    def _by_ratio(self, history: RunHistory, result: Outcome) -> Finding | None:
        rows = weight_layers(history)
        ratios = history.layer("update_ratio")[recent(history.steps, least=_SAMPLES)][:, rows]
        typical = geometric_mean(ratios)
        moves = typical > 0  # layers without any step are for no_gradient to report
        if not moves.any() or result.learned(_SOME) or result.moving(0.1):
            return None
        rows, logs = [row for row, kept in zip(rows, moves, strict=True) if kept], np.log10(typical[moves])
        high, low = logs >= self.threshold("high"), logs <= self.threshold("low")
        # Layers that made steps of usual size before have converged, or nearly so: gradients fade at an optimum.
        low &= ~(geometric_mean(history.layer("update_ratio")[:_SAMPLES, rows]) > _TRAINED) & (not _faded(history))
        if not (high | low).any():
            return None
        alone = np.abs(logs - np.median(logs)) >= math.log10(_APART)
        if (alone & (high | low)).any():
            high, low = high & alone, low & alone
        hit = high if high.any() else low
        affected = [row for row, kept in zip(rows, hit, strict=True) if kept]
        worst = int(np.argmax(np.where(hit, np.abs(logs + 3), -np.inf)))
        where = "all layers" if hit.all() else f"layer {history.layers[rows[worst]].name}"
        size = 10.0 ** float(logs[worst])
        message = (
            f"Steps are too {'large' if high.any() else 'small'} for the weights of {where}: a typical one changes "
            f"them by {about(size, 1)} of their norm (about 0.001 is usual), and {result.words}."
        )
        evidence = {"update_ratio": size, "middle_update_ratio": 10.0 ** float(np.median(logs)), "skill": result.skill}
        return self.finding(Severity.WARNING, _SYMPTOM, message, evidence, layers=names(history, affected))


def _usual_rate(history: RunHistory) -> float:
    """Return the mean learning rate over the run so far: what has shrunk the weights, wherever a schedule is now."""
    rates, steps = history.scalar("learning_rate"), history.steps
    measured = np.isfinite(rates)
    rates, steps = rates[measured], steps[measured]
    if len(rates) < 2:
        return float(rates[0]) if len(rates) else 0.0
    return float(((rates[1:] + rates[:-1]) * np.diff(steps)).sum() / 2 / (steps[-1] - steps[0]))


def _faded(history: RunHistory) -> bool:
    rates = history.scalar("learning_rate")
    rates = rates[np.isfinite(rates)]
    return len(rates) > 0 and bool(rates[-1] < _FADED * rates.max())
