"""Extrapolated learning curves: lengths, their intervals, and curves that tell nothing."""

from __future__ import annotations

import numpy as np
import pytest

from autotrainer.rules._shared.extrapolation import extrapolate

EPOCHS = np.arange(1, 31)
NOISE = np.random.default_rng(0).normal(size=30)


@pytest.mark.parametrize("constant", [10, 30, 100])
@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_exponential_falls_are_extended_to_a_tenth_of_what_is_to_come(constant: int, noise: float) -> None:
    curve = extrapolate(EPOCHS - 1, 0.2 + np.exp(-EPOCHS / constant) + noise * NOISE)
    assert curve is not None
    expected = 1 + constant * np.log(10) / 30
    assert curve.shortest <= curve.length <= curve.longest
    assert curve.length == pytest.approx(expected, rel=0.25)


def test_uncertainty_grows_with_noise_and_outliers_do_not_count() -> None:
    fall = 0.2 + np.exp(-EPOCHS / 30)
    clear, noisy = extrapolate(EPOCHS - 1, fall), extrapolate(EPOCHS - 1, fall + 0.1 * NOISE)
    assert clear is not None
    assert clear.longest <= 1.5 * clear.shortest
    assert noisy is None or noisy.longest > 3 * noisy.shortest
    broken = fall.copy()
    broken[[8, 20]] = (30.0, np.nan)
    outlier = extrapolate(EPOCHS - 1, broken)
    assert outlier is not None
    assert outlier.length == pytest.approx(clear.length, rel=0.25)


def test_power_laws_need_far_longer() -> None:
    curve = extrapolate(EPOCHS - 1, 0.2 + EPOCHS**-0.5)
    assert curve is not None
    assert curve.length > 20


@pytest.mark.parametrize("losses", [np.ones(30), EPOCHS / 10.0, np.full(30, np.nan), np.exp(-EPOCHS[:6] / 3)])
def test_curves_that_do_not_fall_or_are_too_short_tell_nothing(losses: np.ndarray) -> None:
    assert extrapolate(np.arange(len(losses)), losses) is None


def test_limit_is_not_below_zero_for_losses_that_can_not_be() -> None:
    curve = extrapolate(EPOCHS - 1, 1 - 0.01 * EPOCHS)
    assert curve is not None
    assert curve.limit >= 0
