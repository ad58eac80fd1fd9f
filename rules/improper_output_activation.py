"""AT401: an output activation that does not fit the loss and the targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotrainer.records.output_ranges import OUTPUT_RANGES
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import no_gradient
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.ranges import output_activation, output_range, several_labels, unreachable

__all__ = ["ImproperOutputActivation"]

_TOLERANCE = 1e-4

_OTHER_AXIS = 0.05
"""Distance of the sum of a row from 1 from which a softmax has run over another axis."""

_AT_ZERO = 0.02
"""Smallest output of a batch up to which an activation holds it above 0: training has driven a softplus below -3.9."""

_LASTING = 10
"""Samples in all of which an output must be zero for every input to count as dead: single outputs may recover."""


@dataclass(frozen=True, slots=True)
class _Mismatch:
    """Why an activation does not fit.

    Attributes:
        reason: Clause for the message.
        proven: Whether the outputs can't fit the targets at all.
        harmful: If that is not proven, whether such models usually end clearly worse.
    """

    reason: str
    proven: bool = True
    harmful: bool = True


class ImproperOutputActivation(Rule):
    """The output activation does not fit the loss and the targets.

    What it does
        Compares the output activation with the kind of outputs that the loss expects (logits, probabilities, log
        probabilities, values) and with the range of the targets.

    Why it hurts
        Outputs can't reach the targets, or the loss is computed from numbers that are not probabilities: a softmax over
        a single unit is always 1, a sigmoid before a loss on logits is applied twice, a ReLU never outputs a negative
        value. A Poisson loss that raises e to the outputs gets rates of at least 1 from a softplus.

    Evidence used
        Name of the output activation, if known; smallest and largest output; sum of each output row; range of the
        targets; number of outputs; the loss; outputs of a ReLU that are zero for every input and no longer receive a
        gradient; for combinations that are merely unusual, the outcome. In PyTorch, also whether a custom loss is an
        overlap (Dice, Jaccard) of binary masks with outputs that come directly from a layer, by its autograd graph, and
        whether any of these is below 0 or above 1: a warning if the loss has other terms.

    Thresholds
        ``row_sum`` is omega_2 of AUTOTRAINER: the largest accepted mean sum of a row of class probabilities, with a
        tolerance of 0.1; ``unreachable`` is the share of the range of regression targets that the output can't reach;
        ``good_skill``: skill over the trivial predictor from which a mismatch is only a warning.

    When it is wrong
        Some mismatches train well (a softmax applied twice, independent sigmoids with cross-entropy over classes): in a
        model that has learned, they are never an error. A softmax over another axis than the classes stays a warning
        then: what is predicted for a row depends on the rows beside it.

    Repairs
        The activation that fits the loss and the targets.

    References
        Zhang et al., AUTOTRAINER, ICSE 2021, section III; Goodfellow et al., Deep Learning, 2016, section 6.2.2.
    """

    problem = "improper_output_activation"
    code = "AT401"
    aliases = ("wrong_output_activation", "improper_activation", "wrong_activation", "output_activation")
    phrases = (
        "sigmoid or softmax",
        "softmax with one output",
        "softmax with cross entropy loss",
        "activation in last layer",
        "last layer activation",
        "model always outputs 1",
        "model outputs only positive values",
    )
    needs = OUTCOME_NEEDS | frozenset(
        {"output_min", "output_max", "output_row_sum", "output_row_sum_error", "target_min", "dead_units"}
        | {"overlap_outside", "overlap_alone"}
    )
    causes = ("nonfinite_data", "target_mismatch")
    repairs = ("fix_output_activation", "fix_loss", "resize_output_layer", "scale_targets")
    place = "output"
    static = True
    THRESHOLDS = thresholds(
        row_sum=Threshold(1.0, "mean sum of a row of class probabilities (+0.1)", "AUTOTRAINER", alias="omega_2"),
        unreachable=Threshold(0.2, "share of the range of the targets out of reach", "calibrated", maximum=1),
        good_skill=Threshold(0.8, "skill from which a mismatch is a warning", "calibrated", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not len(history.steps):
            return None
        low, high = output_range(history)
        activation = output_activation(history, context)
        mismatch = self._mismatch(history, context, activation, low, high)
        if mismatch is None:
            return None
        result = outcome(history, context)
        severity, confidence = self._severity(mismatch, result)
        if severity is None:
            return None
        sums = history.scalar("output_row_sum")
        targets = history.targets
        evidence = {
            "output_min": low,
            "output_max": high,
            "output_row_sum": float(sums[~np.isnan(sums)][-1]) if not np.isnan(sums).all() else float("nan"),
            "target_min": targets.minimum,
            "target_max": targets.maximum,
        }
        message = (
            f"{mismatch.reason}; {result.words}."
            if severity is Severity.ERROR and result.words and result.steps >= 10
            else f"{mismatch.reason}."
        )
        last = tuple(layer.name for layer in history.layers if not layer.hidden)[-1:]
        return self.finding(severity, confidence, message, evidence, layers=last)

    def _severity(self, mismatch: _Mismatch, result: Outcome) -> tuple[Severity | None, float]:
        good = result.learned(self.threshold("good_skill"))
        if mismatch.proven:
            return (Severity.WARNING, 0.6) if good else (Severity.ERROR, result.certainty)
        late = mismatch.harmful and result.mature(0.9)  # then more was to be gained
        if good or (result.learned(0.6) and not late) or (result.learned(0.5) and not result.mature(0.5)):
            return None, 0.0
        # Usually trains well: a warning if the outcome is poor, never the likely root cause.
        if not mismatch.harmful:
            poor = (result.stuck() and not result.moving()) or (result.mature(0.9) and not result.learned(0.5))
            return Severity.WARNING if poor and result.known else Severity.INFO, 0.4
        if not result.known or not result.mature(0.15):
            return Severity.WARNING, 0.5
        if not result.learned(0.6 if result.mature(0.5) else 0.3):
            return result.worst, 0.7
        return Severity.WARNING, 0.5

    def _mismatch(
        self, history: RunHistory, context: TaskContext, activation: str | None, low: float, high: float
    ) -> _Mismatch | None:
        """Return the most certain mismatch, or None."""
        loss, units = context.loss, context.output_units
        if context.asked.get("overlap_outside", 0.0) > 0:
            values = (
                f" from {low:.3g} to {high:.3g}" if np.isfinite(low) and np.isfinite(high) else ", not all in 0 … 1"
            )
            return _Mismatch(
                f"The loss is an overlap (Dice, Jaccard) of the masks with raw outputs{values}: without probabilities, "
                "it has no lower bound; apply a sigmoid or softmax to the outputs first",
                proven=context.asked.get("overlap_alone") == 1,
            )
        if _silent_outputs(history, 2) >= 1 and no_gradient(history):
            through = f" (activation {activation})" if activation else ""
            return _Mismatch(f"The outputs{through} are 0 for every input, so no gradient passes back")
        proven_by_value = activation is None and low == high == 1.0 and history.targets.count > 1
        if units == 1 and (activation == "softmax" or proven_by_value):
            return _Mismatch("A softmax over a single output is always 1, for any input")
        softmax = activation == "softmax" and history.targets.rank <= 2  # else the last axis may be space or time
        if softmax and (labels := several_labels(history, context)) is not None:
            return _Mismatch(f"A softmax makes {units} outputs sum to 1, but a row has {labels:.2g} labels on average")
        sums = history.scalar("output_row_sum")
        sums = sums[np.isfinite(sums)]
        known_axis = softmax or (activation == "softmax" and loss.family == "cross_entropy" and not loss.identified)
        if known_axis and sums.size and (np.abs(sums - 1) > _OTHER_AXIS).all():
            return _Mismatch(
                f"The softmax does not run over the classes: the {units} outputs of a row sum to {sums[-1]:.3g}",
                proven=context.loss.classifies,
            )
        if loss.classifies and loss.family != "hinge":
            by_form = {"logits": self._logits, "probabilities": self._probabilities, "log_probabilities": self._logs}
            check = by_form.get(loss.expects)
            return check(history, context, activation, low, high) if check is not None else None
        if loss.expects == "log_probabilities":
            return self._logs(history, context, activation, low, high)
        return self._reach(history, context, activation)

    @staticmethod
    def _logits(
        history: RunHistory, context: TaskContext, activation: str | None, low: float, high: float
    ) -> _Mismatch | None:
        """Check the outputs for a loss that applies softmax or sigmoid itself."""
        silent = _silent_outputs(history, _LASTING)
        binary = context.loss.family == "binary_cross_entropy"
        name = context.loss.name
        if binary and activation in ("sigmoid", "hard_sigmoid", "softmax", "relu", "relu6", "softplus"):
            return _Mismatch(
                f"{name} expects logits, but the output activation is {activation}: outputs are never negative, so no "
                "predicted probability can be below one half"
            )
        if activation in ("softmax", "sigmoid", "hard_sigmoid"):
            return _Mismatch(
                f"{name} expects logits, but the output activation is {activation}: outputs between 0 and 1 can't "
                "separate the classes clearly"
            )
        if activation in ("tanh", "softsign", "hard_tanh"):
            return _Mismatch(f"{name} expects logits, but {activation} limits the outputs to −1 … 1", proven=not binary)
        if activation in ("relu", "relu6"):
            dead = f", and {silent:.0%} of the outputs are 0 for every input" if silent > 0 else ""
            message = f"{name} expects logits, but {activation} sets all negative ones to 0{dead}"
            return _Mismatch(message, proven=silent > 0)
        return None

    def _probabilities(
        self, history: RunHistory, context: TaskContext, activation: str | None, low: float, high: float
    ) -> _Mismatch | None:
        """Check the outputs for a loss that expects probabilities."""
        name, targets = context.loss.name, history.targets
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            through = f" (activation {activation})" if activation else ""
            return _Mismatch(f"{name} expects probabilities, but outputs{through} range from {low:.3g} to {high:.3g}")
        limits = OUTPUT_RANGES.get(activation or "sigmoid")
        negative = limits is None or limits[0] < 0
        # Outputs that are never negative after such an activation have been mapped to probabilities since.
        if (negative and np.isnan(low)) or (limits is not None and not negative and limits[1] > 1):
            return _Mismatch(f"{name} expects probabilities, but the output activation is {activation}")
        multiclass = context.kind(targets) == "multiclass"
        if context.loss.family == "cross_entropy" and activation != "softmax" and multiclass:
            return self._row_sum(history, f"{name} expects class probabilities, but")
        return None

    def _row_sum(self, history: RunHistory, reason: str) -> _Mismatch | None:
        """Return a mismatch if the class probabilities of a row do not sum to 1."""
        sums = history.scalar("output_row_sum")
        sums = sums[np.isfinite(sums)]
        if not sums.size or sums[-1] <= self.threshold("row_sum") + 0.1:
            return None
        return _Mismatch(f"{reason} they sum to {sums[-1]:.3g} per row instead of 1", False, harmful=False)

    @staticmethod
    def _logs(
        history: RunHistory, context: TaskContext, activation: str | None, low: float, high: float
    ) -> _Mismatch | None:
        """Check the outputs for a loss that expects log probabilities."""
        if high > _TOLERANCE or (activation in OUTPUT_RANGES and not activation.startswith("log")):
            through = f" (activation {activation})" if activation else ""
            return _Mismatch(
                f"{context.loss.name} expects log probabilities, which are never positive, but outputs{through} range "
                f"from {low:.3g} to {high:.3g}"
            )
        return None

    def _reach(self, history: RunHistory, context: TaskContext, activation: str | None) -> _Mismatch | None:
        """Check whether the outputs can reach the targets, for a loss on values or an unknown loss."""
        targets = history.targets
        kind = context.kind(targets)
        classes = context.loss.own and kind in ("multiclass", "binary")
        if classes and kind == "multiclass" and activation in ("sigmoid", "hard_sigmoid"):
            return self._row_sum(history, f"{activation} computes an independent probability for each class, so")
        if classes and activation in ("relu", "relu6"):
            return _Mismatch(
                f"The class outputs pass through {activation}, which sets all negative ones to 0", proven=False
            )
        if kind not in ("regression", "binary") or (kind == "binary" and not targets.signed):
            return None
        if context.loss.expects == "log_values":
            return self._log_rates(history, context, activation)
        if context.loss.own or context.loss.family == "poisson":
            return None
        share = unreachable(activation, targets.minimum, targets.maximum)
        if share < 0.05:
            return None
        return _Mismatch(
            f"The output activation {activation} can't reach {share:.0%} of the range of the targets "
            f"({targets.minimum:.3g} to {targets.maximum:.3g})",
            proven=share >= self.threshold("unreachable"),
        )

    @staticmethod
    def _log_rates(history: RunHistory, context: TaskContext, activation: str | None) -> _Mismatch | None:
        """Check the outputs for a loss that expects logarithms of rates: whether an activation holds them above 0."""
        limits = OUTPUT_RANGES.get(activation or "")
        lowest = history.scalar("output_min")
        lowest = lowest[np.isfinite(lowest)]
        if limits is None or limits[0] < 0 or len(lowest) < _LASTING or not np.median(lowest[-_LASTING:]) <= _AT_ZERO:
            return None
        return _Mismatch(
            f"{context.loss.name} expects logarithms of rates (log_input), but the output activation is {activation}: "
            "outputs are never negative, so no predicted rate can be below 1; leave it out, or say log_input=False if "
            "the outputs are the rates themselves",
            proven=False,
            harmful=False,
        )


def _silent_outputs(history: RunHistory, samples: int) -> float:
    """Return the share of outputs that were zero for every input in each of the last samples; 0 if not measured."""
    last = [row for row, layer in enumerate(history.layers) if not layer.hidden][-1:]
    dead = history.layer("dead_units")[-samples:, last]
    return float(dead.min()) if dead.size == samples and np.isfinite(dead).all() else 0.0
