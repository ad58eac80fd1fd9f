"""Batches of an evaluation, joined to one array: those of sequences may differ in length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.task import MASKED

__all__ = ["joined", "joined_targets"]


def joined(parts: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
    """Join batches along the rows; shorter sequences are filled up at the end.

    Args:
        parts: Batches, each of shape (rows, ...), of one rank.
        fill: What to fill with.

    Returns:
        Shape (all rows, ...), each further axis as long as the longest; shape (0,) for no batches.
    """
    if not parts:
        return np.zeros(0)
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    shape = np.max([part.shape[1:] for part in parts], axis=0)

    def filled(part: NDArray[Any]) -> NDArray[Any]:
        widths = [(0, 0), *((0, int(more)) for more in shape - part.shape[1:])]
        return np.pad(part, widths, constant_values=part.dtype.type(fill))

    return np.concatenate([filled(part) for part in parts])


def joined_targets(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Join batches of targets: what is filled up is -100 for class indices, and 0 for numbers, as in the outputs.

    Args:
        parts: Batches, each of shape (rows, ...), of one rank.
    """
    if len({part.shape[1:] for part in parts}) > 1 and parts[0].dtype.kind in "biu":
        parts = [part.astype(np.int64) for part in parts]  # an unsigned type has no -100
        return joined(parts, MASKED)
    return joined(parts, 0.0)
