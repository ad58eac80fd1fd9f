"""How far the steps of the optimizer carry the weights, relative to their size, over all layers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.layers import weight_layers

__all__ = ["STEP_NEEDS", "Steps", "clipped_norm", "decay_share", "rate_rises", "shortened", "steps_taken"]

STEP_NEEDS = frozenset({"weight_norm", "update_ratio", "learning_rate"})
"""Columns that these are computed from."""

_USUAL = 0.5
"""Least size of weights that steps are compared with ÷ root of the units: the usual initializers give about 1
(Glorot 2010, He 2015). Weights that begin tiny may grow to that by any factor."""

_FEW = 10
"""Samples from which something is said of their gradients."""

_SAME = 1e-3
"""Spread of a gradient norm ÷ its median up to which it is the limit of a clipping: batches differ by far more."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How far the sampled steps went.

    Attributes:
        sizes: Length of the step ÷ length of all weights, shape (samples,); NaN where not measured or not finite.
        first: The first of them; NaN if there is none.
        largest: The largest of them; 0 if there is none.
        typical: Their median over the last half of the run; NaN if not known.
        grown: Length of all weights now ÷ that at the start, tiny weights taken for usual ones.
        kept: The same, with tiny weights as they are.
        travel: Length of the way that the weights have gone so far ÷ their length: an upper bound of their change.
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
"""The steps of each history as they were last asked for: several rules of one verdict ask for the same."""


def steps_taken(history: RunHistory) -> Steps:
    """Return how far the steps went, from the weight layers that train."""
    state = (history.changes, history.step)
    known = _LATEST.get(history)
    if known is None or known[0] != state:
        known = _LATEST[history] = (state, _steps_taken(history))
    return known[1]


def _steps_taken(history: RunHistory) -> Steps:
    rows = weight_layers(history)
    if not rows or not len(history.steps):
        return Steps(np.zeros(0), math.nan, 0.0, math.nan, math.nan, math.nan, math.nan)
    squares = history.layer("weight_norm")[:, rows] ** 2
    moved = history.layer("update_ratio")[:, rows] ** 2 * squares
    floor = _USUAL**2 * sum(history.layers[row].units or 1 for row in rows)
    plain = np.where(np.isnan(squares).all(axis=1), np.nan, np.fmax(squares, 0.0).sum(axis=1))  # NaN counts as nothing
    lengths = np.maximum(plain, floor)
    way = np.where(np.isnan(moved).all(axis=1), np.nan, np.fmax(moved, 0.0).sum(axis=1))
    sizes = np.sqrt(way / lengths)
    known = np.isfinite(sizes)
    found, steps = sizes[known], history.steps[known]
    late = found[steps >= history.step / 2]
    finite = np.isfinite(plain)
    ends, bare = lengths[finite], plain[finite]
    between = float(((found[1:] + found[:-1]) * np.diff(steps)).sum()) / 2 if len(found) else math.nan
    return Steps(
        sizes=np.where(known, sizes, np.nan),
        first=float(found[0]) if len(found) else math.nan,
        largest=float(found.max(initial=0.0)),
        typical=float(np.median(late)) if len(late) else math.nan,
        grown=math.sqrt(ends[-1] / ends[0]) if len(ends) else math.nan,
        kept=math.sqrt(bare[-1] / bare[0]) if len(ends) and bare[0] > 0 else math.nan,
        travel=between + float(found[0]) if len(found) else math.nan,
    )


def decay_share(context: TaskContext, rate: float) -> float:
    """Return what decay alone takes of the weights in a step; NaN where gradients are scaled along with it.

    Keras decays apart from the gradient with each optimizer, PyTorch with AdamW (Loshchilov and Hutter 2019); SGD adds
    up what is decayed, as it does with gradients.
    """
    optimizer = context.optimizer
    apart = context.framework == "keras3" or optimizer.name == "adamw"
    if not apart and optimizer.name != "sgd":
        return math.nan
    carried = 1.0 if apart or not 0 < optimizer.momentum < 1 else 1 - optimizer.momentum
    return rate * optimizer.weight_decay / carried


def clipped_norm(history: RunHistory) -> float:
    """Return the norm that gradients are clipped to: that of nearly all samples of the last half; NaN if not so."""
    norms = history.scalar("grad_norm")[history.steps >= history.step / 2]
    norms = norms[np.isfinite(norms)]
    middle = float(np.median(norms)) if len(norms) >= _FEW else math.nan
    return middle if middle > 0 and np.quantile(np.abs(norms / middle - 1), 0.8) <= _SAME else math.nan


def rate_rises(history: RunHistory) -> bool:
    """Whether the learning rate is still going up: a warm-up that is not over, or one half of a cycle."""
    rates = history.scalar("learning_rate")
    rates = rates[np.isfinite(rates)]
    return len(rates) > 2 and bool(rates[-1] > 1.02 * rates[(len(rates) * 3) // 4])


def shortened(history: RunHistory) -> float:
    """Return the length of a step ÷ (learning rate × gradient norm): 1 for plain SGD, more with momentum.

    Less says that gradients were clipped after they were measured, as Keras does within the optimizer. NaN if unknown.
    """
    rows = weight_layers(history)
    late = history.steps >= history.step / 2
    moved = history.layer("update_ratio")[late][:, rows] * history.layer("weight_norm")[late][:, rows]
    length = np.sqrt((np.nan_to_num(moved) ** 2).sum(axis=1))
    plain = history.scalar("learning_rate")[late] * history.scalar("grad_norm")[late]
    known = np.isfinite(plain) & (plain > 0) & (length > 0)
    return float(np.median(length[known] / plain[known])) if known.sum() >= _FEW else math.nan
