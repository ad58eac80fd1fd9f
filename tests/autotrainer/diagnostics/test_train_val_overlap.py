"""Rows that training and validation data share, and how many of them are due to chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.diagnostics.train_val_overlap import shared_inputs
from autotrainer.records.data import ArrayData

RANDOM = np.random.default_rng(0)
MEASURED = RANDOM.normal(size=(1000, 4)).astype(np.float32)


def _shared(train: Any, held_out: Any) -> tuple[float, float, float]:
    def data(inputs: Any) -> ArrayData:
        first = (
            inputs[0]
            if isinstance(inputs, tuple)
            else next(iter(inputs.values()))
            if isinstance(inputs, dict)
            else inputs
        )
        return ArrayData(inputs, np.zeros(len(first)))

    facts = shared_inputs(data(train), data(held_out))
    return facts["shared_inputs"], facts["shared_input_share"], facts["expected_shared_share"]


def test_measured_rows_are_shared_only_if_copied() -> None:
    assert _shared(MEASURED[:800], MEASURED[800:]) == (0, 0, 0)
    assert _shared(MEASURED[:800], np.concatenate([MEASURED[800:], MEASURED[:50]])) == (50, 0.2, 0)
    assert _shared(MEASURED, MEASURED) == (1000, 1, 0)


def test_copies_within_training_data_are_not_chance() -> None:
    oversampled = np.concatenate([MEASURED, MEASURED[RANDOM.integers(0, 50, 1000)]])
    RANDOM.shuffle(oversampled)
    shared, share, expected = _shared(oversampled[:1600], oversampled[1600:])
    assert shared == pytest.approx(50, abs=2)
    assert (share > 0.15, expected) == (True, 0)


def test_repeated_row_counts_once() -> None:
    blank = MEASURED.copy()
    blank[::7] = 0
    shared, share, _ = _shared(blank[:800], blank[800:])
    assert shared == 1
    assert share < 0.01


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(RANDOM.integers(0, 3, (2000, 5)), id="243 possible rows"),
        pytest.param(RANDOM.integers(0, 3, (2000, 5)).astype(np.float32), id="the same as floats"),
        pytest.param(RANDOM.zipf(1.5, (3000, 3)), id="some often, most rarely"),
        pytest.param(RANDOM.integers(0, 2, (500, 3)) / 2, id="halves"),
    ],
)
def test_few_possible_values_are_shared_by_chance(rows: np.ndarray) -> None:
    cut = len(rows) * 4 // 5
    _, share, expected = _shared(rows[:cut], rows[cut:])
    assert share > 0.2
    assert expected > share - 0.05


def test_all_inputs_are_compared() -> None:
    other = RANDOM.normal(size=(1000, 2))
    apart = (MEASURED[:800], other[:800]), (MEASURED[:200], other[800:])
    together = (MEASURED[:800], other[:800]), (MEASURED[:200], other[:200])
    assert _shared(*apart) == (0, 0, 0)
    assert _shared(*together) == (200, 1, 0)
    named = [{"a": a, "b": b} for a, b in together]
    assert _shared(named[0], {"b": named[1]["b"], "a": named[1]["a"]}) == (200, 1, 0)


def test_equal_values_of_different_types_are_shared() -> None:
    assert _shared(MEASURED[:800], MEASURED[:100].astype(np.float64)) == (100, 1, 0)


def test_different_shapes_are_not_compared() -> None:
    data = ArrayData(MEASURED, np.zeros(1000))
    assert shared_inputs(data, ArrayData(MEASURED[:, :2], np.zeros(1000))) == {}
    assert shared_inputs(ArrayData(MEASURED.astype(complex), np.zeros(1000)), data) == {}


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int8])
def test_distinct_rows_have_distinct_keys(kind: type) -> None:
    rows = np.stack(np.unravel_index(np.arange(100**2), (100, 100)), axis=1).astype(kind)

    assert _shared(rows[::2], rows[1::2])[0] == 0
    assert _shared(rows, rows[::2])[:2] == (5000, 1)


def test_order_of_inputs_matters() -> None:
    first, second = np.arange(50)[:, None], np.arange(50, 100)[:, None]

    assert _shared((first, second), (second, first))[0] == 0
    assert _shared((first, second), (first, second))[0] == 50
