"""A sample of distinct rows, whatever their order and however often they recur."""

from __future__ import annotations

import numpy as np
import pytest

from autotrainer.monitoring.late_facts import RowSample

_ROWS = np.random.default_rng(1).normal(size=(3000, 3)).astype(np.float32)
_TARGETS = np.arange(3000)


def _sample(order: np.ndarray, batch: int = 32) -> RowSample:
    sample = RowSample()
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        sample.add(_ROWS[rows], _TARGETS[rows])
    return sample


def test_rows_are_distinct_and_keep_their_targets() -> None:
    rows = _sample(np.tile(np.arange(200), 5)).rows
    assert rows is not None
    assert sorted(rows.targets) == list(range(200))
    np.testing.assert_array_equal(rows.inputs, _ROWS[rows.targets])


def test_sample_does_not_depend_on_the_order_and_is_spread_over_all_rows() -> None:
    rows, reverse = _sample(np.arange(3000)).rows, _sample(np.arange(3000)[::-1], batch=50).rows
    assert rows is not None
    assert reverse is not None
    np.testing.assert_array_equal(rows.targets, reverse.targets)
    assert rows.rows == 750
    assert abs(rows.targets.mean() - 1500) < 5 * 3000 / np.sqrt(12 * 750)
    assert abs(np.corrcoef(np.arange(750), rows.targets)[0, 1]) < 0.15  # in random order


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (np.zeros((2, 4), np.float32), np.zeros(2, int)),
        (np.zeros((2, 3)), np.zeros(2, int)),
        (np.zeros((2, 3), np.float32), np.zeros((2, 1), int)),
        (np.zeros((2, 3), np.float32), np.zeros(3, int)),
        (np.zeros((0, 3), np.float32), np.zeros(0, int)),
    ],
    ids=["columns", "type", "targets", "rows", "empty"],
)
def test_batches_of_another_form_are_ignored(inputs: np.ndarray, targets: np.ndarray) -> None:
    sample = _sample(np.arange(40))
    sample.add(inputs, targets)
    assert sample.rows is not None
    assert sample.rows.rows == 40


def test_memory_is_bounded() -> None:
    sample = RowSample()
    sample.add(np.zeros((4, 600_000)), np.zeros(4))
    assert sample.rows is None
    rng = np.random.default_rng(0)
    sample = RowSample()
    for _ in range(10):
        sample.add(rng.normal(size=(20, 10_000)), np.zeros(20))
    assert sample.rows is not None
    assert sample.rows.inputs.nbytes <= 4_000_000


@pytest.mark.parametrize(
    ("order", "targets", "recurs"),
    [
        (np.tile(np.arange(4), 8), _TARGETS, True),
        (np.tile(np.arange(32), 4), _TARGETS, True),
        (np.tile(np.arange(32), 3), _TARGETS, False),
        (np.tile(np.arange(33), 8), _TARGETS, False),
        (np.arange(40), _TARGETS, False),
    ],
    ids=["few", "many", "met three times", "too many", "met once"],
)
def test_few_rows_that_recur_are_a_table(order: np.ndarray, targets: np.ndarray, recurs: bool) -> None:
    assert _sample(order).recurs is recurs


def test_rows_with_several_targets_are_no_table() -> None:
    sample = _sample(np.tile(np.arange(4), 8))
    sample.add(_ROWS[:4], np.array([0, 1, 2, 4]))
    assert not sample.recurs
