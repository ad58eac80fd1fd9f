"""Rows that training and validation data share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.data import ArrayData, arrays_of

__all__ = ["shared_inputs"]

_MAX_BYTES = 1 << 30
"""Maximum size of the inputs that are compared: a second or two."""
_BLOCKS, _BLOCK_SHARE = 5, 20
"""Parts of the training data that stand in for validation data, each a twentieth of it."""
_COLUMNS, _SAMPLE, _MAX_REPEATED = 64, 2000, 0.1
"""A column is a measured quantity if at most a tenth of a sample of its values are repeated."""

_CHUNK = 1 << 20
"""Words of 8 bytes that are hashed at a time."""

Keys = NDArray[np.uint64]


def shared_inputs(train: ArrayData, held_out: ArrayData) -> dict[str, float]:
    """Count the distinct held-out inputs that are training inputs too, equal bit by bit.

    Each distinct input counts once, so that a row that occurs very often (an empty one, for example) is one row. Inputs
    with few possible values are equal by chance; how often is estimated by comparing parts of the training data with
    the rest of it. If a column holds a measured quantity, which practically never repeats, no rows are equal by chance,
    and rows that are repeated in the training data are copies as well.

    Args:
        train: Training data.
        held_out: Validation data.

    Returns:
        ``shared_inputs``, ``shared_input_share`` and ``expected_shared_share`` of `FACTS`; nothing if the inputs have
        different shapes or types, or are larger than 1 GiB.
    """
    pairs = list(zip(arrays_of(train.inputs), arrays_of(held_out.inputs), strict=False))
    alike = all(a.shape[1:] == b.shape[1:] and {a.dtype.kind, b.dtype.kind} <= set("biuf") for a, b in pairs)
    if not alike or sum(a.nbytes + b.nbytes for a, b in pairs) > _MAX_BYTES:
        return {}
    types = [np.result_type(a, b) for a, b in pairs]
    train_keys, held_out_keys = (
        _keys([part.astype(dtype, copy=False) for part, dtype in zip(parts, types, strict=True)])
        for parts in zip(*pairs, strict=True)
    )
    shared = np.isin(np.unique(held_out_keys), train_keys)
    expected = 0.0 if any(_is_measured(a) for a, _ in pairs) else _share_by_chance(train_keys)
    return {
        "shared_inputs": float(shared.sum()),
        "shared_input_share": float(shared.mean()),
        "expected_shared_share": expected,
    }


def _keys(arrays: list[NDArray[Any]]) -> Keys:
    """Return a hash of each row over all arrays."""
    keys = np.zeros(len(arrays[0]), np.uint64)
    place = 0
    for array in arrays:
        flat = np.ascontiguousarray(array).reshape(len(array), -1)
        width = math.ceil(flat.shape[1] * flat.itemsize / 8)
        salt = _mixed(np.arange(place, place + width, dtype=np.uint64))
        for begin in range(0, len(flat), max(1, _CHUNK // max(width, 1))):
            rows = np.s_[begin : begin + max(1, _CHUNK // max(width, 1))]
            content = flat[rows].view(np.uint8)
            words = np.zeros((len(content), 8 * width), np.uint8)
            words[:, : content.shape[1]] = content
            keys[rows] += _mixed(words.view(np.uint64) + salt).sum(axis=1, dtype=np.uint64)
        place += width
    return keys


def _mixed(words: Keys) -> Keys:
    """Return words of which every bit depends on all bits of the argument (SplitMix64; Steele, Lea and Flood 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _share_by_chance(keys: Keys) -> float:
    """Return the share of distinct rows of a part of the data that also occur in the rest of it."""
    _, places, total = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(keys))
    size = max(1, len(keys) // _BLOCK_SHARE)
    shares = []
    for begin in range(0, min(_BLOCKS * size, len(keys)), size):
        part, count = np.unique(places[order[begin : begin + size]], return_counts=True)
        shares.append((total[part] > count).mean())
    return float(np.mean(shares))


def _is_measured(array: NDArray[Any]) -> bool:
    """Return whether some column of an array holds a measured quantity; copies of whole rows do not count."""
    if array.dtype.kind != "f":
        return False
    flat = array.reshape(len(array), -1)
    columns = np.unique(np.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _COLUMNS)).astype(int))
    chosen = np.linspace(0, len(flat) - 1, min(len(flat), _SAMPLE)).astype(int)
    rows = np.unique(flat[np.ix_(chosen, columns)], axis=0) if flat.shape[1] else flat
    if len(rows) < 2:
        return False
    distinct = np.array([len(np.unique(column)) for column in rows.T])
    fractional = (rows != np.round(rows)).mean(axis=0) > 0.5
    return bool(((distinct >= (1 - _MAX_REPEATED) * len(rows)) & fractional).any())
