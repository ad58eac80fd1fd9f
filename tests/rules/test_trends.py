from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotrainer.rules._shared.trends import (
    blocks,
    geometric_mean,
    last_median,
    loss_growth,
    recent,
    solved,
    theil_sen,
    wilson,
)


def test_theil_sen_ignores_outliers_and_non_finite_values() -> None:
    x = np.arange(20)
    y = 3.0 * x + 1
    y[4], y[9], y[15] = 1e9, np.nan, np.inf
    slope = theil_sen(x, y)
    assert slope.slope == pytest.approx(3)
    assert slope.rising
    assert not slope.falling


def test_theil_sen_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = np.arange(40), -0.1 * np.arange(40) + rng.standard_normal(40)
    ours, theirs = theil_sen(x, y), stats.theilslopes(y, x)
    assert ours.slope == pytest.approx(theirs.slope)
    assert ours.low == pytest.approx(theirs.low_slope, rel=0.05)
    assert ours.high == pytest.approx(theirs.high_slope, rel=0.05)


def test_noise_has_no_trend_in_nearly_all_draws() -> None:
    rng = np.random.default_rng(1)
    slopes = [theil_sen(np.arange(24), rng.standard_normal(24)) for _ in range(300)]
    assert np.mean([s.falling or s.rising for s in slopes]) < 0.1


@given(arrays(np.float64, st.integers(0, 70), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_any_values_are_accepted(values: np.ndarray) -> None:
    x = np.arange(len(values))
    with np.errstate(all="ignore"):
        slope = theil_sen(x, values)
        at, means = blocks(x, values)
    assert not (slope.rising and slope.falling)
    assert len(at) == len(means)
    last_median(values)
    geometric_mean(values[:, None])


def test_blocks_average_out_noise() -> None:
    x, y = blocks(np.arange(2400), np.tile([0.0, 2.0], 1200))
    assert len(x) == 24
    np.testing.assert_allclose(y, 1)


def test_recent_is_a_share_of_steps_not_of_samples() -> None:
    steps = np.array([0, 1, 2, 3, 4, 50, 60, 80, 100])
    assert recent(steps, 0.5, 2) == slice(5, 9)
    assert recent(steps, 0.1, 5) == slice(4, 9)
    assert recent(np.zeros(0, np.int64)) == slice(0, 0)


def test_geometric_mean_ignores_single_zeros() -> None:
    table = np.array([[1.0, 0.0, np.nan], [4.0, 0.0, np.nan], [0.0, 0.0, np.nan], [2.0, 1.0, np.nan]])
    mean = geometric_mean(table)
    assert mean[0] == pytest.approx(2)
    assert mean[1] == 0
    assert math.isnan(mean[2])


def test_wilson_is_the_textbook_interval() -> None:
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    assert wilson(1.0, 10)[1] == pytest.approx(1)
    assert wilson(0.3, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("losses", "family", "expected"),
    [
        pytest.param([1.0] * 9 + [20.0] * 9, "custom", 20.0, id="grows"),
        pytest.param([1.0 - t for t in range(30)], "custom", math.nan, id="a likelihood that gets better"),
        pytest.param([1.0] * 9 + [-20.0] * 9, "binary_cross_entropy", 20.0, id="targets beyond 1"),
        pytest.param([-1.0, 1.0, -2.0, math.inf], "custom", math.inf, id="not finite in the end"),
    ],
)
def test_growth_of_a_loss_requires_a_lower_bound(losses: list[float], family: str, expected: float) -> None:
    assert loss_growth(np.array(losses), family) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param([1.0, 0.5, 0.0, 0.0, 0.0], True, id="margins"),
        pytest.param([1.0, *[0.0] * 8, 0.2], True, id="one row violates its margin again"),
        pytest.param([1.0, *[0.2, 0.0] * 8, 0.2], False, id="every second one"),
        pytest.param([-0.4, 0.3, 0.0, 0.0, 0.0], True, id="returns of a policy"),
        pytest.param([-1.0, -0.5, 0.0, 0.0, 0.0], False, id="lower before"),
        pytest.param([0.0] * 6, False, id="zero from the start"),
        pytest.param([0.0, 0.0], False, id="few"),
    ],
)
def test_solved(losses: list[float], expected: bool) -> None:
    assert solved(np.array(losses), 3) is expected
