"""How far the steps of the optimizer move the weights, relative to their norm, over all layers together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats, LayerInfo
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.layers import is_pretrained, weight_layers

__all__ = [
    "STEP_NEEDS",
    "Steps",
    "clipped_norm",
    "decay_share",
    "growth_since_training",
    "rate_rises",
    "step_per_gradient",
    "steps_taken",
]

STEP_NEEDS = frozenset({"weight_norm", "update_ratio", "learning_rate"})
"""Columns that these are computed from."""

_MIN_NORM = 0.5
"""Smallest norm of the weights ÷ root of the units that steps are compared with: standard initializers give about 1
(Glorot 2010, He 2015). Weights that start tiny may grow to that by any factor."""

_MIN_SAMPLES = 10
"""Fewest samples for a statement on gradients."""

_CONSTANT = 1e-3
"""Spread of the gradient norm ÷ its median up to which the norm is a clipping limit: batches differ by far more."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How far the sampled steps went.

    Attributes:
        sizes: Norm of the step ÷ norm of all weights, shape (samples,); NaN where not measured or not finite.
        first: The first of them; NaN if there is none.
        largest: The largest of them; 0 if there is none.
        typical: Their median over the last half of the run; NaN if unknown.
        grown: Norm of all weights now ÷ that at the start, with tiny norms raised to `_MIN_NORM`.
        kept: The same without that lower limit.
        travel: Sum of the norms of all steps so far ÷ norm of the weights: an upper bound of their change.
    """

    sizes: Floats
    first: float
    largest: float
    typical: float
    grown: float
    kept: float
    travel: float

    @property
    def known(self) -> bool:
        """Whether the steps of the last half of the run are known."""
        return not math.isnan(self.typical)


_LATEST: WeakKeyDictionary[RunHistory, tuple[tuple[int, int], Steps]] = WeakKeyDictionary()
"""Cache of the last result for each history: several rules of one evaluation need the same."""


def steps_taken(history: RunHistory) -> Steps:
    """Return how far the sampled steps moved the trainable weight layers."""
    state = (history.changes, history.step)
    cached = _LATEST.get(history)
    if cached is None or cached[0] != state:
        cached = _LATEST[history] = (state, _steps_taken(history))
    return cached[1]


def _steps_taken(history: RunHistory) -> Steps:
    rows = weight_layers(history)
    if not rows or not len(history.steps):
        return Steps(np.zeros(0), math.nan, 0.0, math.nan, math.nan, math.nan, math.nan)
    squares = history.layer("weight_norm")[:, rows] ** 2
    moved = history.layer("update_ratio")[:, rows] ** 2 * squares
    floor = _MIN_NORM**2 * sum(history.layers[row].units or 1 for row in rows)
    plain = np.where(np.isnan(squares).all(axis=1), np.nan, np.fmax(squares, 0.0).sum(axis=1))  # NaN counts as 0
    lengths = np.maximum(plain, floor)
    way = np.where(np.isnan(moved).all(axis=1), np.nan, np.fmax(moved, 0.0).sum(axis=1))
    sizes = np.sqrt(way / lengths)
    measured = np.isfinite(sizes)
    taken, steps = sizes[measured], history.steps[measured]
    late = taken[steps >= history.step / 2]
    finite = np.isfinite(plain)
    ends, bare = lengths[finite], plain[finite]
    between = float(((taken[1:] + taken[:-1]) * np.diff(steps)).sum()) / 2 if len(taken) else math.nan
    return Steps(
        sizes=np.where(measured, sizes, np.nan),
        first=float(taken[0]) if len(taken) else math.nan,
        largest=float(taken.max(initial=0.0)),
        typical=float(np.median(late)) if len(late) else math.nan,
        grown=math.sqrt(ends[-1] / ends[0]) if len(ends) else math.nan,
        kept=math.sqrt(bare[-1] / bare[0]) if len(ends) and bare[0] > 0 else math.nan,
        travel=between + float(taken[0]) if len(taken) else math.nan,
    )


def growth_since_training(history: RunHistory, layers: Sequence[LayerInfo]) -> float:
    """Return the growth of the weights that were trained before, as `Steps.grown`; NaN if none of them is trained on.

    New layers on fixed ones, such as another head or adapters, grow from any size.
    """
    trained_on = is_pretrained(layer for layer in layers if not layer.frozen)
    rows = [row for row in weight_layers(history) if layers[row].origin != "drawn"] if trained_on else []
    if not rows or not len(history.steps):
        return math.nan
    squares = history.layer("weight_norm")[:, rows] ** 2
    squares = squares[np.isfinite(squares).any(axis=1)]
    floor = _MIN_NORM**2 * sum(history.layers[row].units or 1 for row in rows)
    lengths = np.maximum(np.fmax(squares, 0.0).sum(axis=1), floor)
    return math.sqrt(lengths[-1] / lengths[0]) if len(lengths) else math.nan


def decay_share(context: TaskContext, rate: float) -> float:
    """Return the share of the weights that weight decay alone removes in a step; NaN if decay is part of the gradient.

    Keras decouples decay from the gradient in every optimizer, PyTorch in AdamW (Loshchilov and Hutter 2019); in SGD,
    momentum accumulates it like a gradient.
    """
    optimizer = context.optimizer
    decoupled = context.framework == "keras3" or optimizer.name == "adamw"
    if not decoupled and optimizer.name != "sgd":
        return math.nan
    damping = 1.0 if decoupled or not 0 < optimizer.momentum < 1 else 1 - optimizer.momentum
    return rate * optimizer.weight_decay / damping


def clipped_norm(history: RunHistory) -> float:
    """Return the norm that gradients are clipped to, shared by most samples of the last half; NaN if there is none."""
    norms = history.scalar("grad_norm")[history.steps >= history.step / 2]
    norms = norms[np.isfinite(norms)]
    middle = float(np.median(norms)) if len(norms) >= _MIN_SAMPLES else math.nan
    return middle if middle > 0 and np.quantile(np.abs(norms / middle - 1), 0.8) <= _CONSTANT else math.nan


def rate_rises(history: RunHistory) -> bool:
    """Return whether the learning rate is still rising: in a warm-up, or in the first half of a cycle."""
    rates = history.scalar("learning_rate")
    rates = rates[np.isfinite(rates)]
    return len(rates) > 2 and bool(rates[-1] > 1.02 * rates[(len(rates) * 3) // 4])


def step_per_gradient(history: RunHistory) -> float:
    """Return the norm of a step ÷ (learning rate × gradient norm): 1 for plain SGD, more with momentum.

    Less shows that gradients were clipped after they were measured, as Keras does in the optimizer. NaN if unknown.
    """
    rows = weight_layers(history)
    late = history.steps >= history.step / 2
    moved = history.layer("update_ratio")[late][:, rows] * history.layer("weight_norm")[late][:, rows]
    length = np.sqrt((np.nan_to_num(moved) ** 2).sum(axis=1))
    plain = history.scalar("learning_rate")[late] * history.scalar("grad_norm")[late]
    valid = np.isfinite(plain) & (plain > 0) & (length > 0)
    return float(np.median(length[valid] / plain[valid])) if valid.sum() >= _MIN_SAMPLES else math.nan
