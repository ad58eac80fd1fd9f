from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Observation
from autotrainer.records.task import LossInfo, TaskContext


def _summary(*batches: object) -> DataSummary:
    data = DataSummary()
    for batch in batches:
        data.add_targets(np.asarray(batch))
    return data


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([[0, 1, 2, 2]], {"integer_type": True, "classes": 3, "majority": 0.5, "values": (0.0, 1.0, 2.0), "width": 1}),
        ([[0, 1], [1, 1]], {"rows": 4, "majority": 0.75, "binary": True}),
        ([[-1.0, 1.0]], {"signed": True, "binary": False, "integer_type": False, "integral": True}),
        ([np.eye(3)], {"one_hot": True, "classes": 3, "width": 3, "rank": 2}),
        ([np.eye(3), [[1, 1, 0]]], {"one_hot": False, "binary": True, "width": 3}),
        ([[0.5, 1.5, 2.5]], {"integral": False, "classes": 0, "values": (), "variance": pytest.approx(2 / 3)}),
        ([[1.0, math.nan, 3.0]], {"minimum": 1.0, "maximum": 3.0, "mean": 2.0}),
        ([[[[0.0], [10.0]]]], {"rank": 3, "variance": 25.0}),
        ([[[0, 1, -100], [1, -100, -100]]], {"classes": 2, "majority": 2 / 3, "minimum": 0.0, "integral": True}),
        ([[-100, -100], [2, 2, 1]], {"classes": 2, "minimum": 1.0}),
        ([[-100, -5, 3]], {"classes": 3, "minimum": -100.0}),
    ],
)
def test_target_summary(batches: list[object], expected: dict[str, object]) -> None:
    summary = _summary(*batches).targets
    assert {name: getattr(summary, name) for name in expected} == expected


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=5))
def test_target_summary_does_not_depend_on_batches(batches: list[list[int]]) -> None:
    parts, whole = _summary(*batches).targets, _summary([v for batch in batches for v in batch]).targets
    assert (parts.classes, parts.values, parts.rows) == (whole.classes, whole.values, whole.rows)
    np.testing.assert_allclose(
        (parts.mean, parts.variance, parts.majority), (whole.mean, whole.variance, whole.majority), atol=1e-9
    )


def _step(context: TaskContext, **measured: Any) -> dict[str, float]:
    layers = np.full((2, len(LAYER_COLUMNS)), np.nan)
    layers[:, LAYER_COLUMNS.index("grad_norm")] = measured.pop("grad_norm", (3.0, 4.0))
    observation = Observation(5, layers, **measured)
    stats = summarize(observation, 1, DataSummary(), context)
    return dict(zip(STEP_COLUMNS, stats.scalars, strict=True))


CLASSES = TaskContext(loss=LossInfo(family="cross_entropy", expects="logits"), output_units=3)
CUSTOM, CUSTOM_CLASSES = TaskContext(output_units=1), TaskContext(output_units=3)


@pytest.mark.parametrize(
    ("context", "measured", "expected"),
    [
        (CLASSES, {"loss": 0.5, "learning_rate": 0.1, "batch_size": 4.0}, {"loss": 0.5, "grad_norm": 5.0}),
        (CLASSES, {"grad_norm": (math.nan, 2.0)}, {"grad_norm": 2.0}),
        (CLASSES, {"grad_norm": (math.nan, math.nan)}, {"grad_norm": math.nan}),
        (CLASSES, {"grad_norm": (math.inf, 2.0)}, {"grad_norm": math.inf}),
        (
            CLASSES,
            {"outputs": np.array([[2.0, 0, 0], [0, 0, 2.0]]), "targets": np.array([0, 1])},
            {"accuracy": 0.5, "output_row_sum": 2.0, "output_row_sum_error": 1.0, "output_max": 2.0},
        ),
        (
            CLASSES,
            {"outputs": np.array([[math.nan, 0, 0], [0, 0, 2.0]]), "targets": np.array([0, 2])},
            {"accuracy": 0.5, "output_max": math.inf},
        ),
        (
            TaskContext(loss=LossInfo(family="squared_error", expects="values"), output_units=1),
            {"outputs": np.array([[1.0], [2.0]]), "targets": np.array([1.5, 2.5])},
            {
                "squared_error": 0.25,
                "crossed_error": 0.75,
                "absolute_error": 0.5,
                "crossed_absolute_error": 0.75,
                "accuracy": math.nan,
                "target_min": 1.5,
            },
        ),
        (
            TaskContext(loss=LossInfo(family="squared_error", expects="values"), output_units=1),
            {"outputs": np.array([[1.0], [2.0]]), "targets": np.array([[1.5], [2.5]])},
            {"squared_error": 0.25, "crossed_error": math.nan},
        ),
        (
            TaskContext(loss=LossInfo(family="binary_cross_entropy", expects="logits"), output_units=1),
            {"outputs": np.array([[-1.0], [0.2]]), "targets": np.array([[0.0], [1.0]])},
            {"accuracy": 1.0},
        ),
        (
            CUSTOM,
            {"outputs": np.array([[0.8], [0.4]]), "targets": np.array([[1.0], [0.0]])},
            {
                "binary_entropy": -math.log(0.8 * 0.6) / 2,
                "crossed_binary_entropy": -math.log(0.8 * 0.4 * 0.2 * 0.6) / 4,  # a custom loss may squeeze one of them
                "crossed_error": 0.3,
                "crossed_absolute_error": 0.5,
                "cross_entropy": math.nan,
            },
        ),
        (
            CUSTOM,
            {"outputs": np.array([[0.8], [0.4]]), "targets": np.array([1.0, 0.0])},
            {"crossed_binary_entropy": -math.log(0.8 * 0.4 * 0.2 * 0.6) / 4},
        ),
        (
            CUSTOM,
            {"outputs": np.array([[-1.0], [2.0]]), "targets": np.array([[1.0], [2.0]])},
            {"binary_entropy": (math.log1p(math.e) + math.log1p(math.e**2) - 4) / 2},
        ),
        (
            CUSTOM,
            {"outputs": np.array([[1e-5], [0.4]]), "targets": np.array([[1.0], [0.0]])},
            {"binary_entropy": -math.log(1e-5 * 0.6) / 2},
        ),
        (
            CUSTOM_CLASSES,
            {"outputs": np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.6]]), "targets": np.array([0, 2])},
            {"cross_entropy": -math.log(0.5 * 0.75) / 2},
        ),
        (
            CUSTOM_CLASSES,
            {"outputs": np.array([[2.0, 0.0, -1.0]]), "targets": np.array([[0.0, 1.0, 0.0]])},
            {"cross_entropy": math.log(math.e**2 + 1 + 1 / math.e)},
        ),
        (CUSTOM_CLASSES, {"outputs": np.ones((2, 3)), "targets": np.array([0, 3])}, {"cross_entropy": math.nan}),
        (
            CLASSES,
            {"outputs": np.array([[2.0, 0.0, -1.0]]), "targets": np.array([1])},
            {"cross_entropy": math.nan, "binary_entropy": math.nan},
        ),
        (
            CLASSES,
            {"inputs": np.array([[0.0, 5.0], [2.0, 5.0], [math.inf, 5.0]])},
            {"input_nonfinite": 1 / 6, "input_max_abs": 5.0, "input_constant": 0.5},
        ),
        *(
            (CLASSES, {"inputs": np.array(rows, kind)}, {"input_rounded": share})
            for rows, kind, share in (
                ([[1.7e12, 0.0], [1.7e12 + 3e5, 1.0]], "f4", 0.5),  # milliseconds: one number in 131072
                ([[1.7e12, 0.0], [1.7e12 + 3e5, 1.0]], "f8", 0.0),
                ([[1.7e12, 0.0], [1.8e12, 1.0]], "f4", 0.0),  # over years
                ([[3232235777.0], [3232235778.0]], "f4", 1.0),  # equal by now
                ([[5.0], [5.0]], "f4", 0.0),
                ([[3232235777], [3232235778]], "i8", 0.0),
                ([[2000.0, 1.0], [2002.0, 1.5]], "f2", 0.5),
            )
        ),
        (CLASSES, {"targets": np.array([1.0, math.nan])}, {"target_nonfinite": 0.5, "target_max": math.inf}),
    ],
)
def test_step_statistics(context: TaskContext, measured: dict[str, Any], expected: dict[str, float]) -> None:
    values = _step(context, **measured)
    assert {name: values[name] for name in expected} == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("last", "known"), [(0.0, False), (1.0, True)])
def test_spread_between_equal_inputs_is_unknown(last: float, known: bool) -> None:
    layers = np.ones((2, len(LAYER_COLUMNS)))
    observation = Observation(5, layers, inputs=np.array([[0.0, 2.0], [last, 2.0]]), outputs=np.zeros((2, 3)))
    stats = summarize(observation, 1, DataSummary(), CLASSES)
    spread = stats.layers[:, LAYER_COLUMNS.index("activation_spread")]
    assert np.isfinite(spread).all() == known
    assert np.isfinite(stats.scalars[STEP_COLUMNS.index("output_spread")]) == known
    assert (layers == 1).all()


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from(["f", "i"]), st.integers(0, 3))
def test_summarize_accepts_any_shapes(rows: int, units: int, kind: str, extra: int) -> None:
    outputs = np.ones((rows, *([2] * extra), units))
    for targets in (np.ones((rows, units)), np.ones(rows), np.ones((rows, *([2] * extra)))):
        for context in (CLASSES, CUSTOM, CUSTOM_CLASSES):
            _step(context, outputs=outputs, targets=targets.astype(int if kind == "i" else float), inputs=outputs)


def test_absolute_deviation_is_that_from_the_median_of_the_first_rows() -> None:
    rows = np.random.default_rng(0).exponential(1.0, (4000, 2)) * (1.0, 5.0)
    data = DataSummary()
    for batch in np.split(rows, 400):
        data.add_targets(batch)
    best = float(np.abs(rows - np.median(rows, axis=0)).mean())
    assert best <= data.targets.deviation <= 1.05 * best
