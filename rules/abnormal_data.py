"""AT501: inputs on a scale that networks learn badly from."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import activated
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import last_median
from autotrainer.rules._shared.words import about

__all__ = ["AbnormalData"]

_SMALL = 3.0
"""Inputs whose root mean square is at most this have a usual scale: what hidden layers make of them is no matter of
data."""

_LARGE = 10.0
"""Inputs below are never too large, whatever their features: pixels at the border hardly vary in any image set."""


def _last(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known[-1]) if known.size else math.nan


class AbnormalData(Rule):
    """Inputs, or what hidden layers make of them, are on a scale that networks learn badly from.

    What it does
        Looks at scale and offset of the inputs per feature, at differences of scale between features, at features
        without any variation, and at the size of hidden activations.

    Why it hurts
        Large or shifted inputs saturate or kill the units of the first layer and make the loss steep in a few
        directions: steps are then too large for some weights and too small for the rest.

    Evidence used
        Moments of all inputs sampled so far; mean absolute output of hidden layers, from the start on, where the
        inputs are not small; the outcome. Index inputs
        (embeddings) and inputs that the model standardizes itself are left out.

    Thresholds
        ``std`` and ``offset`` (mean ÷ standard deviation of a feature), ``scale_ratio`` (largest ÷ smallest standard
        deviation), ``hidden`` is omega_1 of AUTOTRAINER: mean absolute output of a hidden layer.
        ``schedule``: share of the planned training from which a poor outcome makes it an error.

    When it is wrong
        Many models train well on raw data. A model that has learned is not reported, and without a poor outcome or
        an explosion it is a warning.

    Repairs
        Inputs standardized with the moments of the training data.

    References
        LeCun et al., Efficient BackProp, 1998, section 4.3; Zhang et al., AUTOTRAINER, TDSC 2024.
    """

    problem = "abnormal_data"
    code = "AT501"
    aliases = ("abnormal_activation_scale", "unscaled_data", "unnormalized_data", "unscaled_inputs", "data_scale")
    needs = OUTCOME_NEEDS | frozenset(
        {
            "input_mean",
            "input_std",
            "input_offset",
            "input_scale_ratio",
            "input_constant",
            "input_max_abs",
            "activation_mean_abs",
        }
    )
    causes = ("nonfinite_data",)
    repairs = ("scale_inputs", "insert_normalization", "scale_learning_rate")
    static = True
    THRESHOLDS = thresholds(
        std=Threshold(20, "standard deviation of the inputs", "raw 8-bit images have about 70"),
        offset=Threshold(20, "mean ÷ standard deviation of a feature", "calibrated"),
        scale_ratio=Threshold(1000, "largest ÷ smallest standard deviation of features", "calibrated", 1),
        hidden=Threshold(10, "mean absolute output of a hidden layer", "AUTOTRAINER", alias="omega_1"),
        schedule=Threshold(0.12, "share of the schedule before an error", "delay target of 20 %", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the history as it is now."""
        if not len(history.steps) or context.input_kind in ("index", "scaled"):
            return None
        evidence = {
            name: _last(history.scalar(name))
            for name in ("input_mean", "input_std", "input_offset", "input_scale_ratio", "input_max_abs")
        }
        reason = self._inputs(evidence)
        layer: tuple[str, ...] = ()
        if reason is None:
            reason, layer = self._hidden(history, evidence)
        if reason is None:
            return None
        result = outcome(history, context)
        if result.learned(0.5):
            return None
        severity = self._severity(result)
        message = f"{reason}, and {result.words}." if severity is Severity.ERROR and result.words else f"{reason}."
        return self.finding(severity, 0.85 if severity is Severity.ERROR else 0.5, message, evidence, layers=layer)

    def _severity(self, result: Outcome) -> Severity:
        if result.diverged:
            return Severity.ERROR
        poor = result.stuck(0.2) and result.mature(self.threshold("schedule")) and result.to_come < 0.2
        return result.worst if poor else Severity.WARNING

    def _inputs(self, evidence: dict[str, float]) -> str | None:
        std, offset, ratio = (evidence[n] for n in ("input_std", "input_offset", "input_scale_ratio"))
        if std >= self.threshold("std"):
            largest = about(evidence["input_max_abs"], 3)
            return f"Inputs have a standard deviation of {about(std, 3)} (largest value {largest})"
        if offset >= self.threshold("offset"):
            return f"The mean of an input feature is {about(offset, 3)} times its standard deviation"
        if ratio >= self.threshold("scale_ratio") and evidence["input_max_abs"] >= _LARGE:
            return f"Standard deviations of input features differ {about(ratio, 3)}-fold"
        return None

    def _hidden(self, history: RunHistory, evidence: dict[str, float]) -> tuple[str | None, tuple[str, ...]]:
        # Outputs that have grown in training tell of the learning rate, outputs of small inputs of the weights.
        if history.steps[0] > 10 or not math.hypot(evidence["input_mean"], evidence["input_std"]) > _SMALL:
            return None, ()
        means = np.fmin(history.layer("activation_mean_abs")[0], last_median(history.layer("activation_mean_abs")))
        rows = [row for row in activated(history) if history.layers[row].hidden]
        large = [row for row in rows if np.isfinite(means[row]) and means[row] >= self.threshold("hidden")]
        if not large:
            return None, ()
        evidence["hidden_mean_abs"] = float(means[large[0]])
        name = history.layers[large[0]].name
        return f"The mean absolute output of hidden layer {name} is {about(means[large[0]], 3)}", (name,)
