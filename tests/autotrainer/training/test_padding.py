"""Batches of an evaluation are joined, whatever the lengths of their sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.training.padding import joined, joined_targets


@pytest.mark.parametrize(("kind", "fill"), [("int64", -100), ("uint8", -100), ("bool", -100), ("float32", 0)])
def test_targets_that_are_filled_up(kind: Any, fill: int) -> None:
    found = joined_targets([np.ones((2, 3), kind), np.ones((1, 2), kind)])
    np.testing.assert_array_equal(found, [[1, 1, 1], [1, 1, 1], [1, 1, fill]])


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "float32"])
def test_targets_of_one_length_stay_as_they_are(kind: Any) -> None:
    found = joined_targets([np.ones((2, 3), kind), np.ones((1, 3), kind)])
    assert (found.dtype, found.shape) == (np.dtype(kind), (3, 3))


def test_every_axis_is_filled_up() -> None:
    found = joined([np.ones((1, 2, 3)), np.ones((1, 3, 2))], 0.5)
    assert found.shape == (2, 3, 3)
    assert found.sum() == 12 + 0.5 * 6
    assert joined([], 0.0).shape == (0,)
