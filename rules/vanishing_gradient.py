"""AT101: gradients that vanish on their way back to the first layers."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import last_epochs, names, squashing_layers, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.siblings.pairs import attention_gradients
from autotrainer.rules._shared.trends import geometric_mean, last_median, recent, solved

__all__ = ["VanishingGradient"]

_FAR_BELOW = 1e-3
"""Ratio ÷ threshold up to which a warning does not wait for the outcome: a falling loss is then hardly more than the
output layer learning to predict a constant."""

_LATE = 0.9
"""Share of the schedule from which vanished gradients are an error in a deep model that is not good enough yet."""

_ALL_ZERO = 0.5
"""Confidence if the gradients of all layers are exactly zero, which many other faults cause, too."""

_POOR, _FAIR = 0.7, 0.85
"""Final skill up to which layers that pass little are an error, and a warning, as in `insufficient_capacity`."""

_DEEP = 4
"""Weight layers from which gradients vanish by depth; in a shallower model they vanish because of dead units."""

_PADDED = 0.25
"""Share of indices that repeat the one before, from which it is padding: words seldom follow themselves."""


class VanishingGradient(Rule):
    """Gradients shrink on their way back to the first layers, which therefore do not learn.

    What it does
        Compares the gradient norm of the first weight layer, in forward order, with that of the last one. In a network
        with attention, compares like with like: layers of one role in the first and the last block.

    Why it hurts
        Layers with almost no gradient keep their random initial weights: the model learns nothing, or only in its last
        layers.

    Evidence used
        Geometric mean of each layer's gradient norm over the last half of the run, excluding normalization, embedding
        and frozen layers, and projections to queries and keys, whose gradients are small by nature: they pass a
        softmax. With repeated blocks, the ratio is the median over roles. How much a step changes the first layer
        relative to its weights; and the outcome: skill over the trivial predictor, trend of the loss, share of the
        schedule done. Gradients that are exactly zero everywhere
        count too. An embedding that a recurrent layer reads is compared with that layer, by the median over the rows
        that occur: padding after the tokens makes the layer forget them before its last state is read, and repeated
        indices show it. If all hidden layers are sigmoids, the spread of their outputs over the inputs counts as well:
        it shrinks in the forward pass as the gradient does in the backward pass, and does not depend on the scale of
        the loss.

    Thresholds
        ``ratio``, ``first`` and ``good_score`` are beta_1, beta_2 and Theta of AUTOTRAINER, ``epochs`` is alpha_1;
        ``schedule`` is the share of the planned training after which a model without skill is an error.

    When it is wrong
        A small ratio alone proves nothing: adaptive optimizers train layers with tiny gradients well. It is an error
        only if the model also stays at the level of the trivial predictor, or is still far from good at the end. A
        stack of sigmoids that passed almost nothing at the start is reported if training has settled below skill 0.85,
        although noisy data may allow no more.

    Repairs
        Padding before the tokens, if a layer forgets them; another hidden activation (SELU, ReLU), normalization
        before it, or new initial weights.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III; Glorot and Bengio, AISTATS 2010; Hochreiter 1998.
    """

    problem = "vanishing_gradient"
    code = "AT101"
    aliases = ("vanishing", "vanishing_gradients", "vanish")
    phrases = (
        "gradient zero",
        "gradient is zero",
        "gradients vanish",
        "gradients are very small",
        "early layers do not learn",
        "first layers do not train",
        "deep network does not learn",
        "gradient close to zero",
    )
    needs = OUTCOME_NEEDS | frozenset(
        {"update_ratio", "weight_norm", "activation_spread", "equal_indices", "typical_row_gradient"}
    )
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
        "unscaled_targets",
        "parameters_not_optimized",
        "abnormal_normalization",
        "sibling_outlier",
    )
    repairs = (
        "lead_padding",
        "swap_activation",
        "insert_normalization",
        "add_residual",
        "reinitialize",
        "swap_optimizer",
    )
    THRESHOLDS = thresholds(
        ratio=Threshold(1e-3, "gradient norm of first ÷ last layer, at most", "AUTOTRAINER", alias="beta_1"),
        first=Threshold(1e-4, "gradient norm of the first layer, at most", "AUTOTRAINER", alias="beta_2"),
        good_score=Threshold(
            0.7, "accuracy or R² from which the model is good enough", "AUTOTRAINER", maximum=1.0, alias="Theta"
        ),
        epochs=Threshold(0, "epochs for which it must last", "AUTOTRAINER", alias="alpha_1"),
        schedule=Threshold(0.05, "share of the schedule before an error", "not_learning", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        rows = weight_layers(history)
        window = last_epochs(history, self.threshold("epochs")) if self.threshold("epochs") else None
        if len(rows) < 2 or len(history.steps) < 5 or (self.threshold("epochs") and window is None):
            return None
        return (
            self._by_gradient(history, context, rows, window)
            or self._by_depth(history, context, rows)
            or self._through_time(history, context)
        )

    def _by_gradient(
        self, history: RunHistory, context: TaskContext, rows: list[int], window: slice | None
    ) -> Finding | None:
        """Return a finding if gradients have vanished and the outcome is poor."""
        result = outcome(history, context)
        squashing = squashing_layers(history) if len(rows) >= _DEEP else []
        if squashing and window is None and result.mature(_LATE):
            window = slice(0, len(history.steps))  # at the end, what slowed down most of the schedule counts
        every = geometric_mean(history.layer("grad_norm")[window or recent(history.steps)])
        alike = attention_gradients(history.layers, every, rows)
        rows = rows if alike is None else alike.rows
        norms = every[rows]
        first, last = float(norms[0]), float(norms[-1])
        if not (np.isfinite(first) and np.isfinite(last)) or not (squashing or first <= self.threshold("first")):
            return None
        losses = history.losses[1]
        if last == 0 and (np.isinf(losses[-1:]).any() or solved(losses, 1)):
            return None  # reported by nonfinite, or nothing is left to learn
        ratio = first / last if last > 0 else (0.0 if first == 0 else np.inf)
        ratio = ratio if alike is None or math.isnan(alike.ratio) else alike.ratio
        signal = _signal_ratio(last_median(history.layer("activation_spread")), squashing)
        if not np.fmin(ratio, signal) <= self.threshold("ratio"):
            return None
        if result.low >= self.threshold("good_score") or result.score >= self.threshold("good_score"):
            return None
        extreme = ratio <= self.threshold("ratio") * _FAR_BELOW or bool(squashing)
        stuck = result.known and result.stuck() and not result.moving(0.5 if extreme else 0.1)
        never = last == 0 and not history.layer("grad_norm")[:, rows].any()  # whatever the score of a few batches is
        over = len(rows) >= _DEEP and result.mature(_LATE) and result.known and not result.learned(0.5)
        if over or ((stuck or never) and result.mature(self.threshold("schedule"))):
            severity = Severity.ERROR if last == 0 else result.worst
        elif extreme and not result.learned(0.3):
            severity = Severity.WARNING
        else:
            return None
        evidence = {"ratio": ratio, "first_grad_norm": first, "last_grad_norm": last}
        evidence["first_update_ratio"] = float(last_median(history.layer("update_ratio")[:, rows[0]]))
        if squashing:
            evidence |= {"signal_ratio": signal, "squashing_layers": float(len(squashing))}
        return self._gradient_finding(history, severity, rows, norms, evidence, result.words)

    def _by_depth(self, history: RunHistory, context: TaskContext, rows: list[int]) -> Finding | None:
        """Return a finding if a stack of sigmoids passed almost nothing at the start and training settled too low."""
        squashing = squashing_layers(history) if len(rows) >= _DEEP else []
        signal = _signal_ratio(history.layer("activation_spread")[0], squashing)
        if not signal <= self.threshold("ratio"):
            return None
        result = outcome(history, context)
        if not result.known or not result.mature(0.5) or result.moving() or not result.high <= _FAIR:
            return None
        message = (
            f"At the start of training, {len(squashing)} sigmoid layers shrank differences between inputs to "
            f"{signal:.1g} of their size, and gradients by as much; {result.words} after {result.steps} steps."
        )
        evidence = {"signal_ratio": signal, "squashing_layers": float(len(squashing)), "skill_high": result.high}
        severity, confidence = (result.worst, 0.75) if result.high <= _POOR else (Severity.WARNING, 0.6)
        return self.finding(severity, confidence, message, evidence, layers=names(history, squashing))

    def _through_time(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if a recurrent layer passes almost nothing back to the embedding that it reads."""
        result = outcome(history, context)
        stuck = result.known and result.stuck() and not result.moving(0.1)
        if not stuck or not result.mature(self.threshold("schedule")):
            return None
        layers = history.layers
        norms, typical = (
            geometric_mean(history.layer(name)[recent(history.steps)]) for name in ("grad_norm", "typical_row_gradient")
        )
        for row in range(len(layers) - 1):
            kinds = layers[row].kind, layers[row + 1].kind
            if kinds != ("embedding", "recurrent") or layers[row].frozen or not norms[row + 1] > 0:
                continue
            whole = float(norms[row] / norms[row + 1])  # of a row that pads, gradients don't vanish
            ratio = whole * float(np.fmin(typical[row], 1))
            if not ratio <= self.threshold("ratio") * _FAR_BELOW:
                continue
            equal = float(last_median(history.layer("equal_indices")[:, row]))
            message = (
                f"Layer {layers[row + 1].name} has forgotten what it read when its output is used: the gradient "
                f"norm of a typical row of {layers[row].name} is {ratio:.1g} times that of {layers[row + 1].name}, and "
                f"{result.words}"
            )
            if equal >= _PADDED:
                message += (
                    f". {equal:.0%} of the indices repeat the one before, as padding does: leave it out "
                    "(pack_padded_sequence, mask_zero), or put it before the tokens"
                )
            evidence = {"ratio": ratio, "last_grad_norm": float(norms[row + 1]), "equal_indices": equal}
            return self.finding(result.worst, 0.9, message + ".", evidence, layers=names(history, [row]))
        return None

    def _gradient_finding(
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
        first_name, last_name = (history.layers[rows[end]].name for end in (0, -1))
        if last == 0:
            message = "The gradients of all layers are exactly zero"
        elif first == 0:
            message = (
                f"The gradient norm of layer {first_name} is exactly zero, that of layer {last_name} is {last:.2g}"
            )
        else:
            message = (
                f"The gradient norm of layer {first_name} is only {first:.2g}, {ratio:.1g} times that of layer "
                f"{last_name} ({last:.2g})"
            )
        if evidence.get("signal_ratio", 1.0) <= self.threshold("ratio"):
            count, signal = evidence["squashing_layers"], evidence["signal_ratio"]
            message += (
                f"; after {count:.0f} sigmoid layers, differences between inputs shrink to {signal:.1g} of their size"
            )
        if severity is Severity.ERROR and words:
            message += f", and {words}"
        confidence = (_ALL_ZERO if last == 0 else 0.9) if severity is Severity.ERROR else 0.4
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, starved or rows[:1]))


def _signal_ratio(spread: Floats, squashing: list[int]) -> float:
    """Return the spread over inputs of the last ÷ that of the first squashing layer; NaN without such layers."""
    if not squashing or not spread[squashing[0]] > 0:
        return math.nan
    return float(spread[squashing[-1]] / spread[squashing[0]])
