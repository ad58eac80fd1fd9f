"""Numbers that stand for missing values: which are found in a column, and which are not."""

from __future__ import annotations

import numpy as np
import pytest

from autotrainer.training.missing_values import missing_codes

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=2000)
POSITIVE = np.abs(50 + 8 * RANDOM.normal(size=2000))
SOME = RANDOM.random(2000)


@pytest.mark.parametrize(
    ("column", "codes"),
    [
        pytest.param(np.where(SOME < 0.12, -999, NORMAL), [-999], id="far below"),
        pytest.param(np.where(SOME < 0.01, 9999, np.exp(NORMAL)), [9999], id="far above a skewed column"),
        pytest.param(np.where(SOME < 0.03, 1e20, NORMAL), [1e20], id="very large"),
        pytest.param(np.where(SOME < 0.15, -1, POSITIVE), [-1], id="negative beside positive values"),
        pytest.param(np.where(SOME < 0.15, -1, np.round(POSITIVE)), [-1], id="whole numbers"),
        pytest.param(np.where(SOME < 0.1, -999, np.where(SOME > 0.9, -998, NORMAL)), [], id="two, neither far alone"),
        pytest.param(np.where(SOME < 0.1, -9999, np.where(SOME > 0.9, 999, NORMAL)), [-9999, 999], id="two codes"),
        pytest.param(np.where(SOME < 0.1, -500, NORMAL), [-500], id="an unusual number, very far away"),
        pytest.param(np.where(SOME < 0.1, 20, NORMAL), [], id="an unusual number, a second peak"),
        pytest.param(np.where(SOME < 0.001, -999, NORMAL), [], id="single outliers"),
        pytest.param(NORMAL, [], id="normal"),
        pytest.param(RANDOM.standard_t(2, 2000), [], id="heavy tails"),
        pytest.param(np.exp(2 * NORMAL), [], id="log-normal"),
        pytest.param(np.where(SOME < 0.6, 0, np.exp(NORMAL)), [], id="zeros beside amounts"),
        pytest.param(RANDOM.poisson(3, 2000) * (SOME < 0.4), [], id="zeros beside counts"),
        pytest.param(np.where(SOME < 0.3, 0, NORMAL), [], id="standardized, with a spike"),
        pytest.param(np.minimum(NORMAL, 0.5), [], id="a sensor at the end of its range"),
        pytest.param(np.where(SOME < 0.2, -1, (SOME > 0.6) * 1.0), [], id="-1, 0, 1"),
        pytest.param(RANDOM.integers(0, 5, 2000), [], id="categories"),
        pytest.param(np.where(SOME < 0.1, -1, RANDOM.integers(0, 5, 2000)), [], id="few categories and -1"),
        pytest.param(np.where(SOME < 0.5, -1, np.maximum(5 * NORMAL, 0)), [], id="-1 close to the others"),
    ],
)
def test_codes_of_missing_values(column: np.ndarray, codes: list[float]) -> None:
    table = np.stack([NORMAL, column], axis=1)
    found = missing_codes(table)
    assert [code.value for code in found] == codes
    assert all(code.column == 1 and code.low > -200 and code.high < 500 for code in found)


def test_few_rows_and_values_that_are_not_finite_show_nothing() -> None:
    column = np.where(SOME < 0.12, -999, NORMAL)[:, None]
    assert not missing_codes(column[:40])
    assert [code.value for code in missing_codes(np.where(SOME[:, None] > 0.9, np.nan, column))] == [-999]
    assert not missing_codes(np.full((2000, 1), np.nan))


def test_columns_without_a_finite_value_have_no_code() -> None:
    table = np.random.default_rng(0).normal(size=(200, 2))
    table[:, 1] = np.inf
    table[::3, 1] = np.nan
    assert missing_codes(table) == []


def test_a_value_of_half_of_the_rows_is_a_value_of_its_own() -> None:
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(400, 1)))
    values[rng.random(400) < 0.47] = -1
    assert missing_codes(values) == []
