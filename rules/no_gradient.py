"""AT104: trainable parameters that receive no gradient."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome

__all__ = ["NoGradient"]

_SHOWN = 3
"""Layers that a message names."""

_PIECEWISE = frozenset({"relu", "leaky_relu", "relu6", "prelu", "clipped_relu", "thresholded_relu"})
"""Activations whose second derivatives are zero."""

_DERIVATIVES = 5
"""Sampled steps in which these must have been zero."""

_SOLVED = 1e-6
"""Loss ÷ loss at the start up to which a lack of gradients is success: all samples keep their margin."""


_MOST, _LATE = 0.5, 0.5
"""Share of the layers whose gradient has been exactly zero in every sample, and of the schedule, from which the network
is not trained, whatever its loss measures."""


class NoGradient(Rule):
    """Trainable parameters receive no gradient at all and therefore never change.

    What it does
        Looks for layers whose parameters are trainable and belong to the optimizer, but whose gradient is missing or
        exactly zero step after step; and for losses of second derivatives by the inputs (custom loops of Keras on
        TensorFlow), as of physics-informed networks, in a network whose activations have none.

    Why it hurts
        Such a layer keeps its random initial weights. It may be disconnected from the loss (`detach`, `no_grad`, a
        layer that is never used), or lie before units that pass nothing back.

    Evidence used
        Gradient norm of each layer at the sampled steps: zero, or missing while that of other layers is present, or
        while no step changes any weight; whether the layer has ever had a gradient; the outcome. Frozen layers and
        parameters that no optimizer owns do not count.

    Thresholds
        ``samples``: sampled steps in a row without a gradient; ``schedule``: share of the planned training from which
        it is an error in a model that has learned nothing; ``skill``: skill over the trivial predictor from which it is
        only a fact.

    When it is wrong
        Unused heads and features that are kept random on purpose receive no gradient either: if the model learns, this
        is only information. Gradients that vanish because the loss is zero are success and are not reported.

    Repairs
        Another activation, new initial weights, or normalization. A disconnected layer must be connected, or frozen, by
        hand; a ``train_step`` of a Keras model that stops gradients gives way to that of Keras.

    References
        Lu et al., Dying ReLU and Initialization, 2019; PyTorch manual, Autograd mechanics.
    """

    problem = "no_gradient"
    code = "AT104"
    aliases = ("missing_gradient", "zero_gradient", "zero_gradients", "none_gradient", "detached")
    phrases = (
        "gradient is none",
        "grad is none",
        "parameters have no gradient",
        "all gradients are zero",
        "weights do not update",
        "weights do not change",
        "layer does not get gradients",
    )
    needs = OUTCOME_NEEDS | frozenset({"weight_norm", "update_ratio", "second_derivative"})
    causes = (
        "nonfinite_data",
        "target_mismatch",
        "improper_output_activation",
        "improper_loss",
        "poor_initialization",
        "abnormal_data",
        "unscaled_targets",
        "insufficient_capacity",
        "unshuffled_data",
        "learning_rate_too_high",
        "exploding_gradient",
        "dying_relu",
        "saturated_activation",
        "parameters_not_optimized",
        "abnormal_normalization",
        "sibling_outlier",
        "vanishing_gradient",
        "embedding_unused",
        "ignored_positions",
        "nonfinite",
    )
    repairs = ("swap_activation", "reinitialize", "insert_normalization", "replace_train_step")
    THRESHOLDS = thresholds(
        samples=Threshold(10, "sampled steps in a row without gradient", "as in not_learning", 2),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
        skill=Threshold(0.5, "skill from which it is only a fact", "halfway to a perfect score", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self._second_derivatives(history, context) or self._missing(history, context)

    def _second_derivatives(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if the loss takes second derivatives of the outputs, but they are exactly zero."""
        largest = history.scalar("second_derivative")
        largest = largest[np.isfinite(largest)]
        if len(largest) < _DERIVATIVES or largest.any():
            return None
        bent = sorted({str(layer.activation) for layer in context.layers if layer.activation in _PIECEWISE})
        why = f": with {' and '.join(bent)}, the outputs are piecewise linear" if bent else ""
        result = outcome(history, context)
        message = (
            f"The second derivatives of the outputs by the inputs, which the loss takes, are exactly zero{why}. They "
            "pass no gradient back"
        )
        message += f", and {result.words}" if result.words else ""
        message += ". Use a smooth activation, such as tanh, swish or softplus."
        affected = tuple(layer.name for layer in context.layers if layer.activation in _PIECEWISE)
        return self.finding(Severity.ERROR, 0.95, message, {"samples": float(len(largest))}, layers=affected)

    def _missing(self, history: RunHistory, context: TaskContext) -> Finding | None:
        count = int(self.threshold("samples"))
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        owned = [
            layer.parameters > layer.unowned and not layer.frozen for layer in layers
        ]  # leaves out averages of weights
        rows = [row for row, trains in enumerate(owned) if trains]
        if not rows or len(history.steps) < count:
            return None
        norms = history.layer("grad_norm")[:, rows]
        measured = ~np.isnan(norms).all(axis=1) | self._unchanged(history, rows)
        none = (norms == 0) | (np.isnan(norms) & np.isfinite(history.layer("weight_norm")[:, rows]))
        none = none[measured]
        if len(none) < count or _solved(history):
            return None
        lasting = none[-count:].all(axis=0)
        if not lasting.any():
            return None
        result = outcome(history, context)
        never = none.all(axis=0)
        whole = bool(lasting.all())
        blocked = (norms[measured][:, never] == 0).all(axis=0)  # measured as zero, rather than left out of the graph
        most = not whole and bool(blocked.sum() >= _MOST * len(rows)) and result.mature(_LATE)
        frozen = whole and bool(never.all()) and bool(self._unchanged(history, rows)[measured].all())
        severity = self._severity(result, whole, bool(never.any()), most, frozen)
        if severity is None:
            return None
        hit = [row for row, out in zip(rows, lasting, strict=True) if out]
        evidence = {"layers_without": float(len(hit)), "layers": float(len(rows)), "never": float(never.sum())}
        message = self._message(history, hit, whole, bool(never[lasting].all()), len(none))
        if whole and np.isnan(norms).all():
            message += ": backward() is not called on a loss that depends on them"
        if severity is not Severity.INFO and result.words:
            message += f", and {result.words}"
        confidence = 0.9 if severity is Severity.ERROR else 0.6
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, hit))

    @staticmethod
    def _unchanged(history: RunHistory, rows: list[int]) -> npt.NDArray[np.bool_]:
        """Return in which sampled steps no weight has changed: if no gradient is known then, there was none."""
        still: npt.NDArray[np.bool_] = (history.layer("update_ratio")[:, rows] == 0).all(axis=1)
        return still

    def _severity(self, result: Outcome, whole: bool, never: bool, most: bool, frozen: bool) -> Severity | None:
        """Return the severity, or None if the missing gradient does no harm.

        Args:
            result: The outcome.
            whole: Whether no layer has a gradient.
            never: Whether some layer has never had one.
            most: Whether most layers have never had one.
            frozen: Whether no layer has ever had one, and no step has changed any weight.
        """
        if frozen and result.mature(self.threshold("schedule")) and not result.learned(self.threshold("skill")):
            return Severity.ERROR  # whatever the loss: this is the model of the first step
        if most and not result.known:
            return result.worst
        good = result.learned(self.threshold("skill"))
        if whole:
            return None if good else (Severity.ERROR if result.known else Severity.WARNING)
        poor = result.stuck(0.2) and not result.moving(0.1)
        if poor and result.mature(self.threshold("schedule")):
            return result.worst
        if not never:  # dead units or an idle branch: the outcome decides
            return None
        return Severity.INFO if good or result.moving() else Severity.WARNING

    @staticmethod
    def _message(history: RunHistory, hit: list[int], whole: bool, never: bool, samples: int) -> str:
        since = f"in any of the {samples} sampled steps" if never else "any more"
        if whole:
            return f"No parameter receives a gradient {since}"
        layers = ", ".join(names(history, hit[:_SHOWN]))
        more = f" and {len(hit) - _SHOWN} more" if len(hit) > _SHOWN else ""
        if len(hit) > 1:
            return f"Layers {layers}{more} receive no gradient {since}, although they are trainable"
        return f"Layer {layers} receives no gradient {since}, although it is trainable"


def _solved(history: RunHistory) -> bool:
    """Return whether the loss has fallen to zero, so that nothing is left to learn."""
    losses = history.losses[1]
    sizes = np.abs(losses[np.isfinite(losses)])
    return len(sizes) >= 4 and bool(np.median(sizes[-3:]) <= _SOLVED * np.median(sizes[:3]))
