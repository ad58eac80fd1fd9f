"""AT101: gradients that fade on their way to the first layers."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import last_epochs, names, squashing_layers, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import geometric_mean, last_median, recent

__all__ = ["VanishingGradient"]

_FAR_BELOW = 1e-3
"""A ratio this far below the threshold is worth a warning before the outcome is known, and leaves little hope that a
falling loss is more than the output layer finding the level of the trivial predictor."""

_LATE = 0.9
"""Share of the schedule from which faded gradients are an error where a deep model is not good enough yet."""

_ALL_ZERO = 0.5
"""Confidence where the gradients of all layers are exactly zero: that is so after many other faults, too."""

_POOR, _FAIR = 0.7, 0.85
"""Skill at rest up to which layers that let little through are an error, and worth a look, as in
`insufficient_capacity`."""

_DEEP = 4
"""Weight layers from which gradients fade by depth; in a shallower model they vanish with the units, not the layers."""


class VanishingGradient(Rule):
    """Gradients fade on their way to the first layers, so that these do not learn.

    What it does
        Compares the gradient norm of the first weight layer, in forward order, with that of the last one.

    Why it hurts
        Layers with next to no gradient keep their random start: the model learns nothing, or only in its last layers.

    Evidence used
        Geometric mean of each layer's gradient norm over the last half of the run (normalization, embedding and
        frozen layers left out); how far the first layer moves in a step relative to its weights; and the outcome:
        skill over the trivial predictor, trend of the loss, share of the schedule done. Gradients that are exactly
        zero everywhere count too. Where all hidden layers are sigmoids, the spread of their outputs over inputs counts
        as well: it fades on the way forward as the gradient does on the way back, and does not depend on the scale of
        the loss.

    Thresholds
        ``ratio``, ``first`` and ``good_score`` are beta_1, beta_2 and Theta of AUTOTRAINER, ``epochs`` is alpha_1;
        ``schedule`` is the share of the planned training from which a model without skill is an error.

    When it is wrong
        A small ratio alone proves nothing: adaptive optimizers move layers with tiny gradients well. It is an error
        only where the model also stays at the trivial predictor's level, or is still far from good at the end. A stack
        of sigmoids that let next to nothing through at the start is told where it has come to rest below skill 0.85:
        noisy data may allow no more.

    Repairs
        Another hidden activation (SELU, ReLU), normalization before it, new initial weights.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III; Glorot and Bengio, AISTATS 2010; Hochreiter 1998.
    """

    problem = "vanishing_gradient"
    code = "AT101"
    aliases = ("vanishing", "vanishing_gradients", "vanish")
    needs = OUTCOME_NEEDS | frozenset({"update_ratio", "weight_norm", "activation_spread"})
    causes = (
        "missing_zero_grad",
        "wrong_training_mode",
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "improper_loss",
        "insufficient_capacity",
        "unshuffled_data",
        "learning_rate_too_high",
        "dying_relu",
        "saturated_activation",
        "dormant_neurons",
        "poor_initialization",
        "exploding_gradient",
        "abnormal_update_ratio",
        "abnormal_data",
        "parameters_not_optimized",
    )
    repairs = ("swap_activation", "insert_normalization", "add_residual", "reinitialize", "swap_optimizer")
    THRESHOLDS = thresholds(
        ratio=Threshold(1e-3, "gradient norm of first ÷ last layer, at most", "AUTOTRAINER", alias="beta_1"),
        first=Threshold(1e-4, "gradient norm of the first layer, at most", "AUTOTRAINER", alias="beta_2"),
        good_score=Threshold(
            0.7, "accuracy or R² from which the model is good enough", "AUTOTRAINER", maximum=1.0, alias="Theta"
        ),
        epochs=Threshold(0, "epochs that it must last", "AUTOTRAINER", alias="alpha_1"),
        schedule=Threshold(0.05, "share of the schedule before an error", "not_learning", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        rows = weight_layers(history)
        window = last_epochs(history, self.threshold("epochs")) if self.threshold("epochs") else None
        if len(rows) < 2 or len(history.steps) < 5 or (self.threshold("epochs") and window is None):
            return None
        return self._by_gradient(history, context, rows, window) or self._by_depth(history, context, rows)

    def _by_gradient(
        self, history: RunHistory, context: TaskContext, rows: list[int], window: slice | None
    ) -> Finding | None:
        """Find gradients that have faded, where the outcome is poor."""
        result = outcome(history, context)
        squashing = squashing_layers(history) if len(rows) >= _DEEP else []
        if squashing and window is None and result.mature(_LATE):
            window = slice(0, len(history.steps))  # where most of the schedule was lost, it is told at the end
        norms = geometric_mean(history.layer("grad_norm")[window or recent(history.steps)])[rows]
        first, last = float(norms[0]), float(norms[-1])
        if not (np.isfinite(first) and np.isfinite(last)) or not (squashing or first <= self.threshold("first")):
            return None
        if last == 0 and np.isinf(history.losses[1][-1:]).any():
            return None  # what is not finite is for nonfinite to tell
        ratio = first / last if last > 0 else (0.0 if first == 0 else np.inf)
        faded = _faded(last_median(history.layer("activation_spread")), squashing)
        if not np.fmin(ratio, faded) <= self.threshold("ratio"):
            return None
        if result.low >= self.threshold("good_score") or result.score >= self.threshold("good_score"):
            return None
        extreme = ratio <= self.threshold("ratio") * _FAR_BELOW or bool(squashing)
        stuck = result.known and result.stuck() and not result.moving(0.5 if extreme else 0.1)
        over = len(rows) >= _DEEP and result.mature(_LATE) and result.known and not result.learned(0.5)
        if over or (stuck and result.mature(self.threshold("schedule"))):
            severity = Severity.ERROR if last == 0 else result.worst
        elif extreme and not result.learned(0.3):
            severity = Severity.WARNING
        else:
            return None
        evidence = {"ratio": ratio, "first_grad_norm": first, "last_grad_norm": last}
        evidence["first_update_ratio"] = float(last_median(history.layer("update_ratio")[:, rows[0]]))
        if squashing:
            evidence |= {"signal_ratio": faded, "squashing_layers": float(len(squashing))}
        return self._told(history, severity, rows, norms, evidence, result.words)

    def _by_depth(self, history: RunHistory, context: TaskContext, rows: list[int]) -> Finding | None:
        """Find a stack of sigmoids that let next to nothing through at the start, and that has come to rest too low."""
        squashing = squashing_layers(history) if len(rows) >= _DEEP else []
        faded = _faded(history.layer("activation_spread")[0], squashing)
        if not faded <= self.threshold("ratio"):
            return None
        result = outcome(history, context)
        if not result.known or not result.mature(0.5) or result.moving() or not result.high <= _FAIR:
            return None
        message = (
            f"{len(squashing)} layers of sigmoid left {faded:.1g} of what tells the inputs apart at the start, and the "
            f"first of them as little of the gradient; {result.words} after {result.steps} steps."
        )
        evidence = {"signal_ratio": faded, "squashing_layers": float(len(squashing)), "skill_high": result.high}
        severity, confidence = (result.worst, 0.75) if result.high <= _POOR else (Severity.WARNING, 0.6)
        return self.finding(severity, confidence, message, evidence, layers=names(history, squashing))

    def _told(
        self,
        history: RunHistory,
        severity: Severity,
        rows: list[int],
        norms: Floats,
        evidence: dict[str, float],
        words: str,
    ) -> Finding:
        starved = [row for row, norm in zip(rows, norms, strict=True) if norm <= self.threshold("ratio") * norms[-1]]
        first, last, ratio = float(norms[0]), float(norms[-1]), evidence["ratio"]
        where = f"layer {history.layers[rows[0]].name}"
        if last == 0:
            message = "The gradients of all layers are exactly zero"
        elif first == 0:
            message = (
                f"The gradient of {where} is exactly zero, that of layer {history.layers[rows[-1]].name} {last:.2g}"
            )
        else:
            message = (
                f"The gradient of {where} is {first:.2g}, {ratio:.1g} times that of layer "
                f"{history.layers[rows[-1]].name} ({last:.2g})"
            )
        if evidence.get("signal_ratio", 1.0) <= self.threshold("ratio"):
            count, faded = evidence["squashing_layers"], evidence["signal_ratio"]
            message += f", and {count:.0f} layers of sigmoid leave {faded:.1g} of what tells the inputs apart"
        if severity is Severity.ERROR and words:
            message += f", and {words}"
        confidence = (_ALL_ZERO if last == 0 else 0.9) if severity is Severity.ERROR else 0.4
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, starved or rows[:1]))


def _faded(spread: Floats, squashing: list[int]) -> float:
    """Return the spread over inputs of the last ÷ that of the first squashing layer; NaN where there are none."""
    if not squashing or not spread[squashing[0]] > 0:
        return math.nan
    return float(spread[squashing[-1]] / spread[squashing[0]])
