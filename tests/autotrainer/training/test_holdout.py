"""The hold-out split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.errors import DataError
from autotrainer.records.data import ArrayData
from autotrainer.training.holdout import can_hold_out, hold_out


def _rows(data: ArrayData) -> list[int]:
    return data.inputs[:, 0].astype(int).tolist()


def _data(targets: np.ndarray) -> ArrayData:
    return ArrayData(np.arange(len(targets), dtype=float)[:, None], targets)


@given(rows=st.integers(2, 300), seed=st.integers(0, 5), classes=st.integers(1, 5))
def test_split_is_a_partition_in_original_order(rows: int, seed: int, classes: int) -> None:
    train, validation = hold_out(_data(np.arange(rows) % classes), seed)
    kept, held = _rows(train), _rows(validation)
    assert sorted(kept + held) == list(range(rows))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert kept
    assert held
    assert abs(len(held) - rows / 5) <= classes + 1


LABELS = np.repeat([0, 1, 2], [80, 15, 5])


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(LABELS, id="integers"),
        pytest.param(LABELS.astype(np.float32)[:, None], id="column of floats"),
        pytest.param(np.eye(3)[LABELS], id="one-hot"),
        pytest.param(np.where(LABELS > 0, 1.0, -1.0), id="signed"),
    ],
)
def test_split_is_stratified(targets: np.ndarray) -> None:
    _, validation = hold_out(_data(targets), 0)
    share = np.bincount(LABELS[_rows(validation)], minlength=3)
    assert share.sum() == 20
    if targets.ndim == 2 or len(np.unique(targets)) == 3:
        assert share.tolist() == [16, 3, 1]
    else:
        assert share[0] == 16


def test_rare_class_is_in_both_parts() -> None:
    targets = np.repeat([0, 1], [98, 2])
    for seed in range(10):
        train, validation = hold_out(_data(targets), seed)
        assert set(train.targets) == set(validation.targets) == {0, 1}


def test_continuous_targets_are_not_stratified() -> None:
    for targets in (np.random.default_rng(0).normal(size=100), np.arange(100)):
        _, validation = hold_out(_data(targets), 0)
        assert validation.rows == 20


def test_split_depends_on_seed() -> None:
    data = _data(np.arange(50) % 2)
    assert _rows(hold_out(data, 1)[1]) == _rows(hold_out(data, 1)[1]) != _rows(hold_out(data, 2)[1])


def test_multiple_inputs_and_weights_are_split() -> None:
    rows = np.arange(10.0)
    train, validation = hold_out(ArrayData((rows, rows[:, None]), rows, rows), 0)
    assert train.weights is not None
    assert train.inputs[0].tolist() == train.inputs[1][:, 0].tolist() == train.weights.tolist()
    assert validation.rows == 2


TABLE = np.array([[a, b, c, d, e] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1) for e in (0, 1)])


@pytest.mark.parametrize(
    ("inputs", "targets", "possible"),
    [
        pytest.param(np.arange(24.0)[:, None], np.arange(24.0), False, id="a fifth is less than five rows"),
        pytest.param(np.arange(25.0)[:, None], np.arange(25.0), True, id="a fifth is five rows"),
        pytest.param(np.arange(40.0)[:, None], np.eye(40), False, id="one row a class"),
        pytest.param(np.arange(40.0)[:, None], np.eye(20)[np.arange(40) % 20], True, id="two rows a class"),
        pytest.param(TABLE.astype(float), TABLE.sum(axis=1) % 2, False, id="a truth table"),
        pytest.param(np.c_[TABLE, np.ones(32)] * 2.0 - 1, TABLE.sum(axis=1) % 2, False, id="signed, with a bias"),
        pytest.param(np.repeat(TABLE, 5, axis=0), np.arange(160.0), True, id="with many rows a pattern"),
        pytest.param(TABLE[:31], np.arange(31.0), True, id="not a whole table"),
        pytest.param((TABLE[:, :2], TABLE[:, 2:]), TABLE[:, :1], False, id="a truth table in two arrays"),
    ],
)
def test_rows_are_held_out_only_where_they_can_be_spared(inputs: Any, targets: np.ndarray, possible: bool) -> None:
    assert can_hold_out(ArrayData(inputs, targets)) is possible


def test_integers_are_classes_where_the_loss_says_so() -> None:
    data = _data(np.arange(30))
    assert can_hold_out(data)
    assert not can_hold_out(data, indices=True)


def test_only_row_of_a_class_stays_in_the_training_data() -> None:
    targets = np.repeat(np.arange(23), [40, *[1] * 20, 2, 2])
    for seed in range(5):
        train, validation = hold_out(_data(targets), seed, indices=True)
        assert set(train.targets) == set(range(23))
        assert 5 <= validation.rows <= 11


def test_single_row_is_a_data_error() -> None:
    with pytest.raises(DataError, match="validation_data"):
        hold_out(_data(np.zeros(1)), 0)


def test_nonfinite_rows_are_not_held_out() -> None:
    x, y = np.ones((100, 2)), np.arange(100.0)
    plain = hold_out(ArrayData(x, y), 0)[1].targets
    x[::7, 1], y[::11] = np.nan, np.inf
    train, held = hold_out(ArrayData(x, y), 0)
    assert np.isfinite(held.inputs).all()
    assert np.isfinite(held.targets).all()
    assert train.rows + held.rows == 100
    assert 12 <= held.rows <= 20
    assert len(plain) == 20
    nothing = ArrayData(np.full((10, 1), np.nan), np.arange(10.0))
    assert hold_out(nothing, 0)[1].rows == 2
