"""Curves of a run on comparable scales: each statistic of layers, steps and epochs, by windows of steps.

Runs sample different steps. A window holds the steps from one power of two to the next, as the sampler's octaves do; a
curve's value there is the median over the samples in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Floats
from autotrainer.scoring.reported_metric import lower_is_better

__all__ = ["Curve", "Curves", "Scales", "better_sign", "epoch_values", "nan_median", "run_curves", "window_of"]

SHARES = frozenset(
    {"grad_zero_fraction", "dead_units", "saturated", "dormant", "attention_entropy", "accuracy", "rare_accuracy"}
    | {
        "head_entropy_min",
        "head_entropy_max",
        "lookups_without_gradient",
        "typical_row_gradient",
        "padding_between",
        "rising_indices",
    }
    | {
        "equal_indices",
        "padding_shown",
        "feature_rank",
        "stale_gradients",
        "training_mode",
        "target_nonfinite",
        "input_nonfinite",
        "input_constant",
        "input_rounded",
    }
)
"""Statistics in [0, 1]; metrics of epochs are, too, if higher is better and no value exceeds 1."""

_HIGHER = (
    *("acc", "auc", "f1", "precision", "recall", "r2", "score", "bleu", "rouge", "iou", "dice", "map", "ndcg"),
    *("reward", "return", "correlation", "kappa", "mcc", "exact_match", "win_rate", "quality"),
)
_LOWER = ("perplexity", "ppl", "nll", "bpc", "mape", "wer", "cer", "fid", "deviance", "divergence", "distance")
"""Parts of the names of metrics that are better when higher or, beside `lower_is_better`, lower."""

_COUNTS = frozenset({"frequent_rows", "rows_without_gradient", "rows_of_zero"})
"""Statistics that are numbers of something, often none."""

_NUMBERS = frozenset({"narrowest_head", "widest_head"})
"""Statistics that are numbers of heads, which mean nothing in another run."""

_SCALARS = (
    *("loss", "data_loss", "grad_norm", "accuracy", "rare_accuracy", "squared_error", "absolute_error"),
    *("feature_rank", "gradient_cosine", "stale_gradients", "training_mode", "output_spread"),
    *("class_entropy", "target_spread", "target_nonfinite", "input_nonfinite", "input_max_abs", "input_std"),
    *("input_offset", "input_scale_ratio", "input_constant", "input_rounded"),
)
"""Statistics of a step that are compared: measurements of training and data; settings such as the rate are not."""

_SMALLEST, _LARGEST = 1e-30, 1e30
_RANGE = 1e-6
"""A value below this share of the largest one of its curve counts as that: rounding, or as good as zero."""

_CHANGE, _MEDIAN_ERROR = 0.954, 1.253
"""Median |difference| of two normal values ÷ their standard deviation; and standard error of a median ÷ that of a mean.
Differences of neighbouring samples hold no trend."""

_LAYER_STATISTICS = tuple(column for column in LAYER_COLUMNS if column not in _NUMBERS)

Curve = tuple[int, str]
"""Index of a layer, or -1 for a statistic of the step or of the epochs; and the name of the statistic."""


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of one run.

    Attributes:
        names: The curves.
        values: Their medians on the scale of `Scales`, shape (curves, windows); NaN where nothing was measured.
        noise: Standard error of each median, from the scatter within its window, else within others; NaN if unknown.
    """

    names: tuple[Curve, ...]
    values: Floats
    noise: Floats


def window_of(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the windows of 0-based steps: 0 for step 0, 1 for steps 1 and 2, 2 for 3 to 6, …."""
    return np.asarray(np.floor(np.log2(np.maximum(steps, 0) + 1)), np.int64)


@dataclass(frozen=True, slots=True)
class Scales:
    """On which scale each statistic is compared: one on which equal differences matter equally.

    Shares are compared as the arcsine of their root, which makes their variance even (Anscombe 1948); counts and what
    can be negative by their inverse hyperbolic sine, which is linear near 0 and logarithmic beyond 1; others by their
    logarithm, at least that of 1e-6 of the largest value of the curve.

    Attributes:
        shares: Statistics in [0, 1].
        signed: Counts, and statistics that are negative somewhere.
    """

    shares: frozenset[str] = SHARES
    signed: frozenset[str] = _COUNTS | {"gradient_cosine"}

    @classmethod
    def of(cls, histories: Iterable[RunHistory]) -> Scales:
        """Return the scales that suit all values of several runs."""
        values: dict[str, list[Floats]] = {}
        for history in histories:
            for name in _SCALARS:
                values.setdefault(name, []).append(history.scalar(name))
            for name in history.epoch_names:
                values.setdefault(name, []).append(history.epochs(name)[1])
        shares, signed = set(SHARES), {*_COUNTS, "gradient_cosine"}
        for name, arrays in values.items():
            with np.errstate(invalid="ignore"):
                joined = np.concatenate(arrays)
                joined = joined[np.isfinite(joined)]
                if (joined < 0).any():
                    signed.add(name)
                    shares.discard(name)
                elif better_sign(name) > 0 and joined.size and (joined <= 1).all():
                    shares.add(name)
        return cls(frozenset(shares), frozenset(signed))

    def apply(self, statistic: str, values: Floats) -> Floats:
        """Return values on the statistic's scale; infinity, which stands for what is not finite, becomes large.

        Args:
            statistic: Name of the statistic.
            values: Its values, shape (samples,) or (samples, layers).
        """
        with np.errstate(invalid="ignore"):
            if statistic in self.shares:
                return np.where(np.isinf(values), np.nan, np.arcsin(np.sqrt(np.clip(values, 0.0, 1.0))))
            if statistic in self.signed:
                return np.arcsinh(np.clip(values, -_LARGEST, _LARGEST))
            clipped = np.clip(np.abs(values), 0.0, _LARGEST)
            finite = np.where(clipped < _LARGEST, clipped, 0.0)
            largest = np.fmax.reduce(finite, axis=0, initial=0.0) if len(finite) else 0.0
            return np.asarray(np.log(np.maximum(np.maximum(clipped, _RANGE * largest), _SMALLEST)))

    def undo(self, statistic: str, value: float) -> float:
        """Return the value at a point of the statistic's scale."""
        if statistic in self.shares:
            return math.sin(value) ** 2
        if statistic in self.signed:
            return math.sinh(value)
        value = math.exp(value)
        return math.inf if value >= _LARGEST * 0.99 else 0.0 if value <= _SMALLEST * 1.01 else value


def better_sign(metric: str) -> int:
    """Return 1 if higher values of a metric are better, -1 if lower ones are, 0 if its name does not tell."""
    name = metric.lower()
    if lower_is_better(name) or any(part in name for part in _LOWER):
        return -1
    return int(any(part in name for part in _HIGHER))


def run_curves(history: RunHistory, scales: Scales, last_step: int | None = None) -> Curves:
    """Return the curves of a run.

    Args:
        history: The measurements.
        scales: The scales, of all runs that are compared.
        last_step: Steps after this one are left out; None for none.
    """
    end = history.step if last_step is None else last_step
    windows = int(window_of(np.array([max(end, 0)]))[0]) + 1
    early = history.steps <= end
    names: list[Curve] = [(i, column) for column in _LAYER_STATISTICS for i in range(len(history.layers))]
    names += [(-1, column) for column in _SCALARS]
    samples = [scales.apply(column, history.layer(column)[early]) for column in _LAYER_STATISTICS]
    samples += [scales.apply(column, history.scalar(column)[early])[:, None] for column in _SCALARS]
    parts = [_medians(window_of(history.steps[early]), np.concatenate(samples, axis=1), windows)]
    for name in history.epoch_names:
        if name not in STEP_COLUMNS:
            ends, of_epochs = epoch_values(history, name, end)
            names.append((-1, name))
            parts.append(_medians(window_of(ends), scales.apply(name, of_epochs)[:, None], windows))
    return Curves(tuple(names), *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def epoch_values(history: RunHistory, name: str, last_step: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the last steps of the epochs that have ended by a step, and the values of a name at their ends."""
    epochs, values = history.epochs(name)
    ends = np.array([history.step_of_epoch(int(epoch)) for epoch in epochs], np.int64)
    return ends[ends <= last_step], values[ends <= last_step]


def _medians(windows: NDArray[np.int64], samples: Floats, count: int) -> tuple[Floats, Floats]:
    """Return median and its standard error in each window, both of shape (curves, windows)."""
    shape = samples.shape[1], count
    medians, scatter, amounts = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    for window in np.unique(windows):
        rows = samples[windows == window]
        changes = np.abs(np.diff(rows, axis=0))
        amounts[:, window] = (~np.isnan(rows)).sum(axis=0)
        medians[:, window] = nan_median(rows)
        scatter[:, window] = nan_median(changes) / _CHANGE
    usual = nan_median(scatter.T)
    scatter = np.where(np.isnan(scatter), usual[:, None], scatter)
    with np.errstate(divide="ignore", invalid="ignore"):
        return medians, np.where(amounts > 0, _MEDIAN_ERROR * scatter / np.sqrt(amounts), np.nan)


def nan_median(rows: Floats) -> Floats:
    """Return the medians of columns, without NaN; NaN for a column without a number."""
    medians = np.full(rows.shape[1], np.nan)
    amounts = (~np.isnan(rows)).sum(axis=0)
    present = np.flatnonzero(amounts)
    if present.size:
        ordered = np.sort(rows, axis=0)  # NaN last
        low, high = (amounts[present] - 1) // 2, amounts[present] // 2
        medians[present] = (ordered[low, present] + ordered[high, present]) / 2
    return medians
