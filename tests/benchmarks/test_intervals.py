"""Intervals against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.reporting.intervals import bootstrap_mean, mcnemar, signed_rank, wilson


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)  # Newcombe, Stat. Med. 17 (1998), table I, method 3
def test_wilson_matches_published_values(part: int, whole: int, low: float, high: float) -> None:
    assert wilson(part, whole) == pytest.approx((low, high), abs=5e-5)


def test_intervals_without_data_are_nan() -> None:
    assert all(map(math.isnan, wilson(0, 0)))
    assert all(map(math.isnan, bootstrap_mean({})))


def test_mean_is_over_cases_not_seeds() -> None:
    mean, low, high = bootstrap_mean({"a": [0.0], "b": [1.0] * 9})
    assert mean == 0.5
    assert (low, high) == (0.0, 1.0)


def test_seeds_of_one_case_do_not_narrow_the_interval() -> None:
    draw = np.random.default_rng(1)
    cases = draw.normal(0.5, 0.2, 30)
    one = bootstrap_mean({str(i): [x] for i, x in enumerate(cases)})
    many = bootstrap_mean({str(i): [x] * 10 for i, x in enumerate(cases)})
    assert one[0] == pytest.approx(many[0])
    assert many[2] - many[1] == pytest.approx(one[2] - one[1], rel=0.1)
    assert 2 * 1.96 * cases.std() / math.sqrt(30) == pytest.approx(one[2] - one[1], rel=0.15)


@pytest.mark.parametrize(("lost", "gained", "p"), [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 0.0625), (0, 6, 0.03125)])
def test_mcnemar_is_exact(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == p == mcnemar(gained, lost)


@pytest.mark.parametrize(
    ("gains", "p"), [([0.1, 0.2, 0.3, 0.1, 0.4], 1 / 32), ([0.0] * 5, 1.0), ([-0.1, -0.2, -0.3, -0.4, -0.5], 1.0)]
)
def test_signed_rank_over_seeds(gains: list[float], p: float) -> None:
    assert signed_rank(gains) == pytest.approx(p, abs=0.01)
