"""Batches of an evaluation are concatenated, and sequences are padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.training.padding import joined, joined_targets


@pytest.mark.parametrize(("kind", "fill"), [("int64", -100), ("uint8", -100), ("bool", -100), ("float32", 0)])
def test_targets_are_padded(kind: Any, fill: int) -> None:
    targets = joined_targets([np.ones((2, 3), kind), np.ones((1, 2), kind)])
    np.testing.assert_array_equal(targets, [[1, 1, 1], [1, 1, 1], [1, 1, fill]])


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "float32"])
def test_targets_of_equal_length_keep_their_type(kind: Any) -> None:
    targets = joined_targets([np.ones((2, 3), kind), np.ones((1, 3), kind)])
    assert (targets.dtype, targets.shape) == (np.dtype(kind), (3, 3))


def test_every_axis_is_padded() -> None:
    outputs = joined([np.ones((1, 2, 3)), np.ones((1, 3, 2))], 0.5)
    assert outputs.shape == (2, 3, 3)
    assert outputs.sum() == 12 + 0.5 * 6
    assert joined([], 0.0).shape == (0,)
