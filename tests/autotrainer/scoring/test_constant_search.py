"""The search for the constants with the lowest loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from autotrainer.scoring.constant_search import best_constants

Y = np.random.default_rng(0).normal(size=200)


def absolute(row: Any) -> float:
    return float(np.abs(row[0] - 5000 - Y).mean())


def positive(row: Any) -> float:
    return float(row[0] - math.log(row[0])) if row[0] > 0 else math.nan


def normal(scale: float, offset: float) -> Any:
    y = offset + scale * Y

    def loss(row: Any) -> float:
        with np.errstate(all="ignore"):
            return float((row[1] + 0.5 * ((y - row[0]) / np.exp(row[1])) ** 2).mean())

    return loss


@pytest.mark.parametrize(
    ("loss", "start", "expected", "error"),
    [
        pytest.param(lambda c: float(((c[0] - Y) ** 2).mean()), [0.0], Y.var(), 1e-3, id="mean"),
        pytest.param(absolute, [0.0], np.abs(Y - np.median(Y)).mean(), 0.05, id="far"),
        pytest.param(normal(1, 0), [0.5, 0.5], math.log(Y.std()) + 0.5, 0.01, id="normal"),
        pytest.param(normal(300, 5000), [0.1, 0.0], math.log(300 * Y.std()) + 0.5, 0.1, id="normal far away"),
        pytest.param(positive, [3.0], 1.0, 1e-3, id="of positive numbers"),
    ],
)
def test_constants(loss: Any, start: list[float], expected: float, error: float) -> None:
    constants, count = best_constants(loss, np.array(start))
    assert loss(constants) == pytest.approx(expected, abs=error)
    assert count <= 304


def test_without_a_finite_start_nothing_is_searched() -> None:
    assert best_constants(lambda _: math.nan, np.zeros((2, 3)))[1] == 1


def test_constants_have_the_form_of_a_row() -> None:
    constants, _ = best_constants(lambda row: float((row**2).sum()), np.ones((2, 3)))
    assert constants.shape == (2, 3)
    assert np.abs(constants).max() < 0.05
