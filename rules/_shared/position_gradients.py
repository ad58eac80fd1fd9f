"""Embeddings of positions that nothing learns from, as a training shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.measurement import names_positions
from autotrainer.records.signals import LayerInfo
from autotrainer.rules._shared.trends import last_median

__all__ = ["POSITION_NEEDS", "UnusedPositions", "unused_positions"]

POSITION_NEEDS = frozenset(
    {"position_grad_norm", "rising_indices", "equal_indices", "lookups_without_gradient", "grad_norm"}
)
"""Columns that `unused_positions` reads."""

_COUNTING = 0.9
"""Share of neighbouring indices that rise by one, from which they are positions: padding may interrupt them."""


@dataclass(frozen=True, slots=True)
class UnusedPositions:
    """Embeddings of positions from which the model can't learn an order.

    Attributes:
        rows: Their rows in the layer table.
        constant: Whether all positions have the same index, rather than no gradient.
        samples: Sampled steps that show it: all.
        looked_up: Whether the first of them is looked up, rather than left out of the forward pass.
    """

    rows: tuple[int, ...]
    constant: bool
    samples: int
    looked_up: bool = False


def unused_positions(history: RunHistory, layers: Sequence[LayerInfo], samples: int) -> UnusedPositions | None:
    """Return the embeddings of positions without gradient, or with the same index for all positions.

    They are recognized by their names, or by indices that count up. A gradient must be missing in every sampled step
    with a gradient of other layers.

    Args:
        history: The measurements.
        layers: The layers.
        samples: Sampled steps that are needed.
    """
    graded = history.scalar("grad_norm") > 0
    if graded.sum() < samples:
        return None
    position, rising, equal, without = (
        history.layer(name)[graded]
        for name in ("position_grad_norm", "rising_indices", "equal_indices", "lookups_without_gradient")
    )
    trained = [layer.parameters > layer.unowned and not layer.frozen for layer in layers]
    counting = np.array([layer.kind == "embedding" for layer in layers], bool) & (last_median(rising) >= _COUNTING)
    silent = _always(position, 0.0, samples) | (counting & _always(without, 1.0, samples))
    named = np.array([names_positions(layer.name) for layer in layers], bool)
    constant = named & _always(equal, 1.0, samples)
    for hits, same in ((silent, False), (constant, True)):
        rows = tuple(int(row) for row in np.flatnonzero(hits & np.array(trained, bool)))
        if rows:
            looked_up = bool((rising[:, rows[0]] >= 0).any())  # measured where it is looked up
            return UnusedPositions(rows, same, int(graded.sum()), looked_up)
    return None


def _always(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], value: float, samples: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return the columns that have this value wherever they were measured, in at least so many samples."""
    measured = ~np.isnan(values)
    return np.asarray(((values == value) | ~measured).all(axis=0) & (measured.sum(axis=0) >= samples))
