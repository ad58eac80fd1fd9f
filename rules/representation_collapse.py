"""AT205: representations that no longer distinguish inputs."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import activated, inputs_vary, names, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import last_median

__all__ = ["RepresentationCollapse"]

_SAMPLES = 8

_UNKNOWN = 0.3
"""Share of the schedule before which a training of unknown outcome is not judged."""

_FELL = 0.5
"""Effective rank ÷ that at the start up to which it has collapsed."""


class RepresentationCollapse(Rule):
    """The features before the output are the same for all inputs, or have almost no rank left.

    What it does
        Compares the spread over inputs of the last hidden layer (of the output itself, if there are no targets) with
        its size, and the effective rank of the features that enter the output layer with the largest possible rank.

    Why it hurts
        The output layer can't separate inputs whose features are equal. In self-supervised training the loss may be at
        its best all the same: equal representations are the shortcut that such losses must be protected from.

    Evidence used
        Median of both over the last samples, compared with the start of the run; the outcome, or, if skill is unknown,
        whether the loss has settled.

    Thresholds
        ``spread``: spread ÷ size of the features up to which they are the same for all inputs; ``shrunk``: the same
        ratio, and spread ÷ spread at the start, up to which features are shrinking to a point, if the outcome is
        unknown; ``rank``: effective rank ÷ min(samples, features) up to which it has collapsed; ``schedule``: share of
        the planned training from which that is an error.

    When it is wrong
        The features of a good classifier have a rank of about the number of classes (neural collapse), those of a
        regression of about one. The rank therefore counts only if it fell and the model stays at the level of the
        trivial predictor. If the outcome is unknown, only features that shrink to a point count; they are an error only
        if they are the same for all inputs and the loss has settled. Adversarial training, with its several optimizers,
        is not judged this way.

    Repairs
        Normalization, new initial weights, a lower learning rate, or another activation. In self-supervised training: a
        mechanism that keeps pairs apart (negatives, a stopped gradient, a variance term).

    References
        Garrido et al., RankMe, ICML 2023 (arXiv 2210.02885); Jing et al., Understanding Dimensional Collapse in
        Contrastive Self-supervised Learning, ICLR 2022 (2110.09348); Papyan, Han and Donoho, PNAS 2020 (2008.08186).
    """

    problem = "representation_collapse"
    code = "AT205"
    aliases = ("collapse", "rank_collapse", "dimensional_collapse", "feature_collapse", "oversmoothing")
    phrases = (
        "embeddings are all the same",
        "all embeddings collapse",
        "features are identical for all inputs",
        "representations collapse",
        "contrastive loss collapses",
        "model outputs the same embedding",
    )
    needs = OUTCOME_NEEDS | frozenset(
        {
            "feature_rank",
            "activation_spread",
            "activation_mean_abs",
            "output_spread",
            "output_min",
            "output_max",
            "target_spread",
            "input_std",
        }
    )
    causes = (
        "parameters_not_optimized",
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "improper_loss",
        "abnormal_data",
        "unscaled_targets",
        "insufficient_capacity",
        "unshuffled_data",
        "learning_rate_too_high",
        "exploding_gradient",
        "poor_initialization",
        "abnormal_update_ratio",
        "dying_relu",
        "saturated_activation",
        "dormant_neurons",
        "vanishing_gradient",
        "nonfinite",
    )
    repairs = ("insert_normalization", "reinitialize", "scale_learning_rate", "swap_activation", "revive_units")
    THRESHOLDS = thresholds(
        spread=Threshold(1e-4, "spread of the features ÷ their size, at most", "as in not_learning", maximum=1),
        shrunk=Threshold(
            0.01, "the same, and spread ÷ spread at the start, at most", "healthy runs keep a fifth", maximum=1
        ),
        rank=Threshold(0.1, "effective rank ÷ the largest possible, at most", "RankMe", maximum=1),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        stand_in = context.loss.family == "custom"  # a loss without targets often gets zeros instead
        if len(history.steps) < _SAMPLES or not inputs_vary(history) or (_one_target(history) and not stand_in):
            return None
        result = outcome(history, context)
        if result.known:
            poor = result.stuck(0.2) and not result.moving(0.1) and result.mature(self.threshold("schedule"))
            return (self._same_features(history, result) or self._low_rank(history, result)) if poor else None
        if context.optimizer.several or not result.mature(_UNKNOWN):
            return None
        sizes = np.fmax(np.abs(history.scalar("output_min")), np.abs(history.scalar("output_max")))
        return self._same_features(history, result) or self._shrunk(result, history.scalar("output_spread"), sizes)

    def _same_features(self, history: RunHistory, result: Outcome) -> Finding | None:
        """Return a finding if the outputs of the last hidden layer are the same for all inputs."""
        row = _last_hidden(history)
        if row is None:
            return None
        spread, sizes = history.layer("activation_spread")[:, row], history.layer("activation_mean_abs")[:, row]
        layers = names(history, [row])
        if not result.known:
            return self._shrunk(result, spread, sizes, layers)
        now, before = _ends(_relative(spread, sizes))
        if not now <= self.threshold("spread"):
            return None
        message = f"The features of layer {layers[0]} are the same for all inputs, and {result.words}."
        confidence = 0.85 if result.worst is Severity.ERROR else 0.5
        return self.finding(result.worst, confidence, message, {"spread": now, "first_spread": before}, layers=layers)

    def _shrunk(self, result: Outcome, spread: Floats, sizes: Floats, layers: tuple[str, ...] = ()) -> Finding | None:
        """Return a finding if features or outputs no longer distinguish inputs, in a training of unknown outcome."""
        (now, before), (width, start) = _ends(_relative(spread, sizes)), _ends(spread)
        if not (now <= self.threshold("shrunk") and width <= self.threshold("shrunk") * start and start > 0):
            return None
        over = now <= self.threshold("spread") and not result.moving(0.02)
        severity = result.worst if over else Severity.WARNING
        values = f"features of layer {layers[0]}" if layers else "outputs"
        message = (
            f"The {values} hardly differ between inputs any more: by {now:.2g} times their size, and by {before:.2g} "
            "at the start."
        )
        evidence = {"spread": now, "first_spread": before, "shrunk": width / start}
        confidence = 0.7 if severity is Severity.ERROR else 0.5
        return self.finding(severity, confidence, message, evidence, layers=layers)

    def _low_rank(self, history: RunHistory, result: Outcome) -> Finding | None:
        """Return a finding if the rank of the features has collapsed, in a training with a poor outcome."""
        now, before = _ends(history.scalar("feature_rank"))
        mature = result.mature(min(1.0, 2 * self.threshold("schedule")))
        if not (mature and now <= self.threshold("rank") and now <= _FELL * before):
            return None
        fall = f"from {before:.1%} to {now:.1%} of its maximum"
        message = f"The effective rank of the features before the output layer fell {fall}, and {result.words}."
        confidence = 0.7 if result.worst is Severity.ERROR else 0.5
        return self.finding(result.worst, confidence, message, {"rank": now, "first_rank": before})


def _one_target(history: RunHistory) -> bool:
    """Return whether the targets are known not to differ."""
    spread = _ends(history.scalar("target_spread"))[0]
    return not math.isnan(spread) and spread <= 0


def _last_hidden(history: RunHistory) -> int | None:
    """Return the row of the last hidden layer, from the first weight layer on, whose output was measured."""
    first = min(weight_layers(history), default=-1)
    spread = history.layer("activation_spread")[-1]
    rows = [row for row in activated(history) if history.layers[row].hidden and not math.isnan(spread[row])]
    return rows[-1] if rows and rows[-1] >= first >= 0 else None


def _relative(spread: Floats, sizes: Floats) -> Floats:
    """Return spread ÷ size; 0 where both are zero."""
    return np.where(sizes > 0, spread / np.where(sizes > 0, sizes, 1.0), np.where(sizes == 0, 0.0, np.nan))


def _ends(values: Floats) -> tuple[float, float]:
    """Return the medians of the last and of the first samples."""
    now, before = (last_median(part[:, None])[0] for part in (values, values[: _SAMPLES // 2]))
    return float(now), float(before)
