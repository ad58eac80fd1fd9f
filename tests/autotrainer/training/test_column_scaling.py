"""Which columns are taken on a logarithmic scale, and which are dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autotrainer.backends.pytorch.layers import modules
from autotrainer.edits import ScaleInputs
from autotrainer.errors import ConfigError
from autotrainer.training.column_scaling import ColumnScaling

ROWS = 400
RNG = np.random.default_rng(0)
NORMAL = RNG.normal(100.0, 20.0, ROWS)
PRICES = np.exp(RNG.normal(8.0, 2.0, ROWS))
LABELS = (np.median(PRICES) < PRICES).astype(np.int64)
NUMBERS = np.arange(ROWS, dtype=np.float64)


def fit(*columns: np.ndarray, targets: np.ndarray | None = LABELS, batch: int = 64) -> ScaleInputs:
    scaling, inputs = ColumnScaling(), np.stack(columns, axis=1)
    for start in range(0, len(inputs), batch):
        rows = slice(start, start + batch)
        scaling.add(inputs[rows], None if targets is None else targets[rows])
    return scaling.fit()


def scaled(edit: ScaleInputs, column: int, values: np.ndarray) -> np.ndarray:
    return (np.arcsinh((values - edit.log_center[column]) / edit.log_scale[column]) - edit.mean[column]) / edit.std[
        column
    ]


def test_only_columns_over_several_decades_become_logarithms() -> None:
    uniform, counts = RNG.uniform(0, 255, ROWS), RNG.poisson(3.0, ROWS).astype(float)
    edit = fit(NORMAL, PRICES, uniform, counts, RNG.integers(0, 2, ROWS).astype(float), RNG.exponential(5.0, ROWS))
    assert edit.logarithmic == (1,)
    values = scaled(edit, 1, PRICES)
    assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert np.abs(values).max() < 5 < np.abs((PRICES - PRICES.mean()) / PRICES.std()).max()
    assert edit.mean[0] == pytest.approx(NORMAL.mean())


def test_zeros_negative_and_two_sided_values() -> None:
    sparse = np.where(RNG.random(ROWS) < 0.5, 0.0, PRICES)
    edit = fit(sparse, -PRICES, RNG.standard_cauchy(ROWS) + 1000, NORMAL)
    assert edit.logarithmic == (0, 1, 2)
    assert edit.log_center[:2] == (0.0, 0.0)
    assert edit.log_center[2] == pytest.approx(1000, abs=1)
    assert np.isfinite(scaled(edit, 0, sparse)).all()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_numbers_for_missing_values_count_for_nothing(share: float) -> None:
    rng = np.random.default_rng(3)
    missing, known = rng.random(ROWS) < share, rng.normal(0.0, 1.0, ROWS)
    edit = fit(np.where(missing, -999.0, known), NORMAL, rng.choice([-1.0, 1.0], ROWS))
    assert edit.logarithmic == ()
    assert edit.missing == ((0, -999.0, 0.0),)
    assert edit.mean[0] == pytest.approx(known[~missing].mean())
    assert edit.std[0] == pytest.approx(known[~missing].std())
    assert "-999 in column 0 replaced" in str(edit)


def test_what_is_missing_stays_apart_where_the_targets_depend_on_it() -> None:
    rng = np.random.default_rng(3)
    missing, known = rng.random(ROWS) < 0.2, rng.normal(0.0, 1.0, ROWS)
    tells, random = missing + 0.3 * rng.normal(size=ROWS), rng.normal(size=ROWS)
    for code, fill in ((-999.0, -3.0), (1e20, 3.0)):
        column = np.where(missing, code, known)
        assert fit(column, NORMAL, targets=tells).missing == ((0, code, fill),)
        assert fit(column, NORMAL, targets=random).missing == ((0, code, 0.0),)
        assert fit(column, NORMAL, targets=None).missing == ((0, code, 0.0),)


def test_two_common_groups_of_values_stay_linear() -> None:
    rng = np.random.default_rng(4)
    groups = np.where(rng.random(ROWS) < 0.4, rng.normal(100.0, 5.0, ROWS), rng.normal(0.0, 5.0, ROWS))
    assert fit(groups, NORMAL).logarithmic == ()


def test_rare_values_and_few_distinct_ones_stay_linear() -> None:
    border, powers = np.zeros(ROWS), 10.0 ** RNG.integers(0, 6, ROWS)
    border[:5] = (1, 10, 100, 200, 250)
    assert fit(border, powers, NORMAL).logarithmic == ()


def test_a_relation_that_is_linear_in_the_raw_values_stays_linear() -> None:
    assert fit(PRICES, NORMAL, targets=3 * PRICES + 1).logarithmic == ()
    assert fit(PRICES, NORMAL, targets=np.log(PRICES)).logarithmic == (0,)
    assert fit(PRICES, NORMAL, targets=None).logarithmic == (0,)


@pytest.mark.parametrize("numbers", [NUMBERS, NUMBERS[::-1], NUMBERS + NUMBERS // 2])
def test_row_numbers_constant_and_empty_columns_are_dropped(numbers: np.ndarray) -> None:
    edit = fit(NORMAL, np.full(ROWS, 7.0), numbers + 1, np.full(ROWS, np.nan))
    assert (edit.constant, edit.row_numbers, edit.dropped) == ((1, 3), (2,), (1, 3, 2))
    assert "columns 1, 3 dropped as constant or empty; column 2 dropped as row number" in str(edit)


def test_numbers_in_another_order_than_the_rows_are_kept() -> None:
    ranks = np.random.default_rng(1).permutation(ROWS).astype(float)
    labels = ((ranks - ROWS / 2) * (NORMAL - 100) > 0).astype(int)  # the ranks matter through the other column alone
    assert fit(NORMAL, ranks, targets=labels).row_numbers == ()
    assert fit(NORMAL, ranks).row_numbers == ()


def test_nearly_constant_columns_are_kept() -> None:
    edit = fit(NORMAL + 1.6e9, NORMAL)
    assert edit.dropped == ()
    assert edit.std[0] == pytest.approx(1.6e9 * 2**-24)  # no finer than single precision holds the mean


@pytest.mark.parametrize(
    "targets",
    [NUMBERS > 200, np.sin(NUMBERS / 10), NUMBERS % 2, np.abs(NUMBERS - 200) > 100, NUMBERS // 50],
    ids=["threshold", "wave", "parity", "middle", "classes"],
)
def test_numbers_that_the_targets_depend_on_are_kept(targets: np.ndarray) -> None:
    assert fit(NORMAL, NUMBERS, targets=targets.astype(float)).dropped == ()
    many = np.column_stack([np.tile(LABELS[:, None], 40), targets])
    assert fit(NORMAL, NUMBERS, targets=many).dropped == ()
    assert fit(NORMAL, NUMBERS, targets=np.tile(LABELS[:, None], 2000)).dropped == ()  # too many to compare


def test_numbers_are_kept_if_in_doubt() -> None:
    assert fit(NORMAL, NUMBERS, targets=None).dropped == ()
    assert fit(NUMBERS, np.ones(ROWS)).dropped == (1,)  # the only column that varies
    assert fit(NORMAL, NUMBERS * 1000).dropped == ()  # with gaps
    assert fit(NORMAL, NUMBERS + 0.5).dropped == ()
    assert fit(NORMAL[:30], NUMBERS[:30], targets=LABELS[:30]).dropped == ()
    assert fit(np.ones(ROWS), np.zeros(ROWS)).dropped == ()


def test_many_rows_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotrainer.training.column_scaling._FEWEST_ROWS", 100)
    monkeypatch.setattr("autotrainer.training.column_scaling._VALUES", 0)
    edit, whole = fit(PRICES, NORMAL, NUMBERS), fit(PRICES, NORMAL)
    assert edit.logarithmic == (0,)
    assert edit.row_numbers == ()  # not all rows were compared
    assert edit.mean[1] == pytest.approx(whole.mean[1])
    assert edit.mean[0] == pytest.approx(whole.mean[0], abs=1)


def test_other_shapes_are_scaled_as_a_whole() -> None:
    for inputs in (RNG.normal(size=(50, 4, 4, 1)) ** 9, PRICES):
        scaling = ColumnScaling()
        scaling.add(inputs, np.zeros(len(inputs)))
        edit = scaling.fit()
        assert (len(edit.mean), edit.logarithmic, edit.dropped) == (1, (), ())
    with pytest.raises(ConfigError, match="no value is finite"):
        fit(np.full(ROWS, np.nan), np.full(ROWS, np.inf))


@pytest.mark.parametrize(
    "column",
    [
        np.where(np.arange(ROWS) < 10, 3e38, PRICES / PRICES.min() / 100),
        np.where(np.arange(ROWS) < 250, 3e38, PRICES),
        np.where(np.arange(ROWS) < 250, -3e38, 3e38),
        np.where(np.arange(ROWS) < 20, -3.4e38, 3.4e38),
        NORMAL * 2e36,
        NORMAL * 1e-38,
    ],
    ids=["few sentinels", "many sentinels", "two signs", "far below", "large", "tiny"],
)
def test_scaled_values_are_finite_in_single_precision(column: np.ndarray) -> None:
    edit = fit(column, NORMAL)
    columns = edit.log_center, edit.log_scale, edit.dropped, edit.missing
    module = modules.ColumnScaling(torch.nn.Identity(), edit.mean, edit.std, *columns)
    values = module(torch.tensor(np.stack([column, NORMAL], axis=1), dtype=torch.float32)).numpy()
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 30
    assert values[:, 1].std() == pytest.approx(1, rel=1e-4)
    scaling = ColumnScaling()
    scaling.add(column.reshape(-1, 1, 1))
    assert np.isfinite(((column - scaling.fit().mean[0]) / scaling.fit().std[0]).astype(np.float32)).all()


def test_values_that_are_not_finite_are_left_out() -> None:
    holes = PRICES.copy()
    holes[:3] = (np.nan, np.inf, -np.inf)
    edit = fit(holes, NORMAL, NUMBERS)
    assert edit.logarithmic == (0,)
    assert np.isfinite(edit.mean).all()
