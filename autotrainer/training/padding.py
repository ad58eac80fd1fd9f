"""Concatenation of an evaluation's batches; sequences of different lengths are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.task import MASKED

__all__ = ["joined", "joined_targets"]


def joined(parts: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
    """Concatenate batches along the rows; shorter sequences are padded at the end.

    Args:
        parts: Batches, each of shape (rows, ...), all of the same rank.
        fill: Padding value.

    Returns:
        Shape (all rows, ...), every further axis as long as the longest batch's; shape (0,) for no batches.
    """
    if not parts:
        return np.zeros(0)
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    shape = np.max([part.shape[1:] for part in parts], axis=0)

    def padded(part: NDArray[Any]) -> NDArray[Any]:
        widths = [(0, 0), *((0, int(missing)) for missing in shape - part.shape[1:])]
        return np.pad(part, widths, constant_values=part.dtype.type(fill))

    return np.concatenate([padded(part) for part in parts])


def joined_targets(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate batches of targets, padded with -100 for class indices and with 0 for floating-point numbers.

    Args:
        parts: Batches, each of shape (rows, ...), all of the same rank.

    Returns:
        As `joined`; padded integers are int64.
    """
    if len({part.shape[1:] for part in parts}) > 1 and parts[0].dtype.kind in "biu":
        parts = [part.astype(np.int64) for part in parts]  # unsigned types can't hold -100
        return joined(parts, MASKED)
    return joined(parts, 0.0)
