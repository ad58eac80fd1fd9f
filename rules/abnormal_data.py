"""AT501: inputs on a scale that makes training difficult."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import activated, no_gradient
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, equal_outputs, outcome
from autotrainer.rules._shared.trends import last_median
from autotrainer.rules._shared.words import about

__all__ = ["AbnormalData"]

_SMALL = 3.0
"""Root mean square up to which inputs have a usual scale: large hidden outputs are then not due to the data."""

_SAME_SAMPLES = 5
"""Fewest sampled steps in which all rows are the same."""

_SATURATED_SAMPLES = 10
"""Sampled steps after which a network without gradients is taken for one that its inputs have saturated."""

_PIXEL, _EXACT = 1 / 255, 1e-4
"""Largest pixel if they are divided by 255 twice, and relative rounding error."""

_LARGE = 10.0
"""Magnitude below which inputs are never too large, however far the scales of features differ: pixels at the border
hardly vary in any image set."""

_MISSING = (
    *("missing_code", "missing_code_column", "missing_code_share"),
    *("missing_code_low", "missing_code_high", "missing_code_columns"),
)
"""Facts about a number that stands for missing values."""


def _last(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else math.nan


class AbnormalData(Rule):
    """Inputs, or the hidden activations they produce, are on a scale that makes training difficult.

    What it does
        Checks the scale and offset of each input feature, how far the scales of features differ, whether values are too
        large to be told apart (timestamps and identifiers in float32), whether all rows are the same (pixels after a
        division in integers), and the size of hidden activations. In tables, looks for numbers that stand for missing
        values, such as -999: the smallest or largest of a column, in several rows, and far outside all others.

    Why it hurts
        Large or shifted inputs saturate or kill the units of the first layer. They also make the loss steep in a few
        directions only: steps are then too large for some weights and too small for the others. What rounding has made
        equal, no later scaling tells apart. A number such as -999 is taken for a measurement, and makes all others look
        alike. Very small inputs hardly change the outputs, and their weights hardly get a gradient.

    Evidence used
        Statistics of all inputs sampled so far; where the inputs are not small, hidden layers whose mean absolute
        output has been large from the start; the outcome of the training. Index inputs (embeddings) and inputs that the
        model standardizes itself are left out.

    Thresholds
        ``std``: standard deviation of the inputs. ``smallest``: their largest magnitude, at most. ``offset``: mean ÷
        standard deviation of a feature. ``scale_ratio``: largest ÷ smallest standard deviation of the features.
        ``rounded``: share of the features whose standard deviation is at most four times the distance of neighboring
        numbers in their floating-point type, or that are constant beyond the integers that it represents.
        ``hidden`` (omega_1 in AUTOTRAINER): mean absolute output of a hidden layer. ``schedule``: share of the planned
        training after which a poor outcome makes this an error.

    When it is wrong
        Many models train well on raw data. A model that has learned is not reported, and without a poor outcome,
        divergence or layers that get no gradient at all this is only a warning. Numbers that stand for missing values
        are a fact where the model has learned. A second peak of a column may be taken for one if it is a single number,
        as far away. Only the first input of a model is measured: that its rows are the same is reported where the
        outputs are the same, too, and the training is no better than a constant prediction.

    Repairs
        Standardize the inputs with the mean and standard deviation of the training data; those too large for their type
        before they are converted to it. Numbers that stand for missing values are replaced by the mean of the others,
        or, if the targets depend on what is missing, by a value just outside them. Rows that have become the same can't
        be told apart by any scaling: convert integers to floating point before dividing them.

    References
        LeCun et al., Efficient BackProp, 1998, section 4.3; Zhang et al., AUTOTRAINER, TDSC 2024.
    """

    problem = "abnormal_data"
    code = "AT501"
    aliases = ("abnormal_activation_scale", "unscaled_data", "unnormalized_data", "unscaled_inputs", "data_scale")
    phrases = (
        "inputs are not normalized",
        "forgot to normalize the data",
        "pixel values from 0 to 255",
        "images not divided by 255",
        "features on different scales",
        "should i scale my features",
        "all inputs are zero",
        "missing values coded as a number",
    )
    needs = OUTCOME_NEEDS | frozenset(
        {
            "input_mean",
            "input_std",
            "input_offset",
            "input_scale_ratio",
            "input_constant",
            "input_rounded",
            "input_max_abs",
            "activation_mean_abs",
            "distinct_rows",
            *_MISSING,
        }
    )
    causes = ("nonfinite_data",)
    repairs = ("scale_inputs", "insert_normalization", "scale_learning_rate")
    static = True
    THRESHOLDS = thresholds(
        std=Threshold(20, "standard deviation of the inputs", "raw 8-bit images have about 70"),
        smallest=Threshold(
            0.02, "largest magnitude of the inputs", "initializers assume unit scale (Glorot 2010); 50 times less", 0
        ),
        offset=Threshold(20, "mean ÷ standard deviation of a feature, or of all if that is larger", "calibrated"),
        scale_ratio=Threshold(1000, "largest ÷ smallest standard deviation of features", "calibrated", 1),
        rounded=Threshold(
            0,
            "share of features whose values are hardly told apart",
            "float32 tells integers above 2^24 apart in steps of 2 and more (IEEE 754)",
            0,
            maximum=1,
        ),
        hidden=Threshold(10, "mean absolute output of a hidden layer", "AUTOTRAINER", alias="omega_1"),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not len(history.steps) or context.input_kind == "index":
            return None
        missing = self._missing(history, context)
        scale = None if context.input_kind == "scaled" else self._scale(history, context)
        if missing is None or (scale is not None and scale.severity.rank < missing.severity.rank):
            return scale
        return missing

    def _scale(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {
            name: _last(history.scalar(name))
            for name in (
                *("input_mean", "input_std", "input_offset", "input_scale_ratio"),
                *("input_rounded", "input_max_abs"),
            )
        }
        same = self._same_rows(history, context)
        if same is not None:
            return same
        largest = history.scalar("input_max_abs")
        evidence["input_max_abs"] = float(np.nanmax(largest)) if np.isfinite(largest).any() else math.nan
        reason = self._inputs(evidence)
        layer: tuple[str, ...] = ()
        if reason is None:
            reason, layer = self._hidden(history, evidence)
        if reason is None:
            return None
        result = outcome(history, context)
        if result.learned(0.5):
            return None
        saturated = not result.known and len(history.steps) >= _SATURATED_SAMPLES and no_gradient(history)
        severity = Severity.ERROR if saturated else self._severity(result)
        message = f"{reason}, and {result.words}." if severity is Severity.ERROR and result.words else f"{reason}."
        if saturated:
            message = f"{reason}, and no layer has a gradient."
        if evidence["input_rounded"] > self.threshold("rounded"):
            message += " Center them before they are converted to it."
        return self.finding(severity, 0.85 if severity is Severity.ERROR else 0.5, message, evidence, layers=layer)

    def _missing(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find a number that stands for missing values."""
        evidence = {name: context.asked[name] for name in _MISSING if name in context.asked}
        if len(evidence) < len(_MISSING):
            return None
        value, column, share, low, high, columns = evidence.values()
        others = "1 other column holds" if columns == 2 else f"{columns - 1:.0f} other columns hold"
        more = f", and {others} such numbers" if columns > 1 else ""
        message = (
            f"Column {column:.0f} of the inputs holds {value:.6g} in {100 * share:.2g}% of the rows, far outside its "
            f"other values, {about(low, 3)} to {about(high, 3)}{more}: as it seems, in place of missing values."
        )
        result = outcome(history, context)
        severity = Severity.INFO if result.learned(0.5) else self._severity(result)
        if severity is Severity.ERROR and result.words:
            message = f"{message} {result.words[0].upper()}{result.words[1:]}."
        return self.finding(severity, 0.9, message, evidence)

    def _same_rows(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find that all rows of all sampled steps are the same, and therefore all outputs."""
        distinct, sizes = history.scalar("distinct_rows"), history.scalar("batch_size")
        result = outcome(history, context)
        alike = len(distinct) >= _SAME_SAMPLES and bool((distinct == 1).all() and (sizes > 1).all())
        if not alike or not equal_outputs(history) or not (result.stuck(0.2) and result.known):
            return None
        largest = _last(history.scalar("input_max_abs"))
        what = (
            "All inputs are 0"
            if largest == 0
            else f"All rows of the inputs are the same (largest magnitude {about(largest)})"
        )
        severity = result.worst if result.mature(self.threshold("schedule")) else Severity.WARNING
        divided = largest in (0, 1)
        advice = "Convert integers to floating point before dividing them" if divided else "Look at a batch of inputs"
        message = f"{what}, and {result.words}. {advice}."
        return replace(
            self.finding(severity, 0.95, message, {"distinct_rows": 1.0, "input_max_abs": largest}), repairs=()
        )

    def _severity(self, result: Outcome) -> Severity:
        if result.diverged:
            return Severity.ERROR
        poor = result.stuck(0.2) and result.mature(self.threshold("schedule")) and result.to_come < 0.2
        return result.worst if poor else Severity.WARNING

    def _inputs(self, evidence: dict[str, float]) -> str | None:
        std, offset, ratio = (evidence[n] for n in ("input_std", "input_offset", "input_scale_ratio"))
        if evidence["input_rounded"] > self.threshold("rounded"):
            largest = about(evidence["input_max_abs"], 3)
            return (
                f"Inputs of magnitude {largest} are too large for their floating-point type, which hardly tells the "
                f"values of {evidence['input_rounded']:.0%} of the features apart"
            )
        if std >= self.threshold("std"):
            largest = about(evidence["input_max_abs"], 3)
            return f"Inputs are far from unit scale: standard deviation {about(std, 3)}, largest magnitude {largest}"
        if 0 < evidence["input_max_abs"] <= self.threshold("smallest") and std != 0:  # a single value is no data
            twice = abs(evidence["input_max_abs"] / _PIXEL - 1) <= _EXACT
            why = ", which is 1/255, as of pixels that were divided by 255 twice" if twice else ""
            return f"Inputs are very small: the largest magnitude is {about(evidence['input_max_abs'], 3)}{why}"
        if offset >= self.threshold("offset"):
            return f"Inputs are not centered: the mean of a feature is {about(offset, 3)} times the standard deviation"
        if ratio >= self.threshold("scale_ratio") and evidence["input_max_abs"] >= _LARGE:
            times = about(ratio, 3)
            return (
                f"Input features are on very different scales: their standard deviations differ by a factor of {times}"
            )
        return None

    def _hidden(self, history: RunHistory, evidence: dict[str, float]) -> tuple[str | None, tuple[str, ...]]:
        # Outputs that grow during training are due to the learning rate, large outputs of small inputs to the weights.
        if history.steps[0] > 10 or not math.hypot(evidence["input_mean"], evidence["input_std"]) > _SMALL:
            return None, ()
        means = np.fmin(history.layer("activation_mean_abs")[0], last_median(history.layer("activation_mean_abs")))
        rows = [row for row in activated(history) if history.layers[row].hidden]
        large = [row for row in rows if np.isfinite(means[row]) and means[row] >= self.threshold("hidden")]
        if not large:
            return None, ()
        evidence["hidden_mean_abs"] = float(means[large[0]])
        name = history.layers[large[0]].name
        size = about(means[large[0]], 3)
        return f"Hidden activations are too large: the mean absolute output of layer {name} is {size}", (name,)
