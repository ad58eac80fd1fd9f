from __future__ import annotations

import math

import numpy as np
import pytest

from autotrainer.reporting.charts.downsampling import MAX_POINTS, points


@pytest.mark.parametrize("length", [0, 1, 2, MAX_POINTS])
def test_short_curves_stay_as_they_are(length: int) -> None:
    assert points(range(length), np.arange(length) / 2) == tuple((float(i), i / 2) for i in range(length))


@pytest.mark.parametrize("length", [MAX_POINTS + 1, 4096, 1_000_000])
def test_long_curves_keep_their_ends_and_every_spike(length: int) -> None:
    values = np.sin(np.arange(length) / 50)
    values[length // 3], values[length // 2], values[length // 5] = 40.0, -40.0, math.inf
    kept = points(np.arange(length) * 10, values)
    assert len(kept) <= MAX_POINTS
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert (kept[0][0], kept[-1][0]) == (0.0, 10.0 * (length - 1))
    assert {(length // 3 * 10.0, 40.0), (length // 2 * 10.0, -40.0), (length // 5 * 10.0, math.inf)} <= set(kept)


def test_what_is_not_a_number_is_kept_as_such() -> None:
    values = np.ones(1000)
    values[500] = math.nan
    assert sum(math.isnan(y) for _, y in points(range(1000), values)) == 1


def test_positions_without_a_value_each_are_refused() -> None:
    with pytest.raises(ValueError, match="2 positions and 3 values"):
        points([0, 1], [0.0, 1.0, 2.0])
