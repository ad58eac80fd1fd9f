from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.schema import rebuild
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import TaskContext
from autotrainer.reporting.charts.layer_charts import MAX_COLUMNS, MAX_ROWS
from autotrainer.reporting.charts.run_charts import RunCharts, run_charts
from autotrainer.reporting.outcome import plain

Values = Callable[[int, int], float]


def _history(
    steps: list[int], layers: int = 3, epochs: int = 0, **columns: Values | float
) -> tuple[RunHistory, TaskContext]:
    """Return a history; ``columns`` give a statistic of layers by step and layer."""
    context = TaskContext("pytorch", "pytorch", layers=tuple(LayerInfo(f"layer{i}") for i in range(layers)))
    history = RunHistory(context.layers)
    for step in steps:
        scalars = np.full(len(STEP_COLUMNS), np.nan)
        for name, value in {"loss": 1 / (step + 1), "grad_norm": 2.0, "learning_rate": 0.1, "accuracy": 0.5}.items():
            scalars[STEP_COLUMNS.index(name)] = value
        table = np.full((layers, len(LAYER_COLUMNS)), np.nan)
        for name, values in columns.items():
            column = [values(step, i) if callable(values) else values for i in range(layers)]
            table[:, LAYER_COLUMNS.index(name)] = column
        history.add_step(StepStats(step, 0, scalars, table))
    for epoch in range(epochs):
        last = (epoch + 1) * (steps[-1] + 1) // epochs - 1
        history.add_epoch(epoch, last, {"val_loss": 1.0, "val_f1": 0.5, "loss": 1.0})
    return history, context


def test_curves_have_group_unit_and_steps() -> None:
    charts = run_charts(*_history(list(range(10)), epochs=2))
    assert [(c.name, c.group, c.unit, c.per) for c in charts.curves] == [
        ("loss", "loss", "", "step"),
        ("val_loss", "loss", "", "epoch"),
        ("val_f1", "metrics", "", "epoch"),
        ("accuracy", "metrics", "share of rows", "step"),
        ("grad_norm", "gradient norm", "L2 norm over all layers", "step"),
        ("learning_rate", "learning rate", "", "step"),
    ]
    assert charts.curves[1].points == ((4.0, 1.0), (9.0, 1.0))
    assert charts.epochs == ((1.0, 4.0), (2.0, 9.0))
    assert (charts.last_step, charts.more_curves, charts.layers) == (9, 0, None)


def test_curves_of_one_group_are_few() -> None:
    history, context = _history([0, 1])
    history.add_epoch(0, 1, {f"metric{i:02}": 1.0 for i in range(30)})
    charts = run_charts(history, context)
    assert sum(c.group == "metrics" for c in charts.curves) == 12
    assert charts.more_curves == 30 + 1 - 12
    assert charts.curves[-1].name == "learning_rate"


def test_a_run_without_steps_has_nothing_to_draw() -> None:
    charts = run_charts(RunHistory(), TaskContext())
    assert charts == RunCharts((), 0, (), -1, None, ("loss", "gradients", "targets"))


def test_layers_have_their_highest_values_over_steps_and_their_ends() -> None:
    charts = run_charts(*_history([0, 5, 9], grad_norm=lambda s, i: s + 10.0 * i if i else math.nan, weight_norm=4.0))
    layers = charts.layers
    assert layers is not None
    assert layers.names == ("layer1", "layer2")
    assert layers.steps == ((0, 0), (5, 5), (9, 9))
    assert dict(layers.over_steps) == {"grad_norm": ((10.0, 15.0, 19.0), (20.0, 25.0, 29.0))}
    assert dict(layers.first_and_last) == {
        "weight_norm": ((4.0, 4.0), (4.0, 4.0)),
        "grad_norm": ((10.0, 19.0), (20.0, 29.0)),
    }


def test_ends_are_the_first_and_last_measured_ones() -> None:
    layers = run_charts(*_history([0, 1, 2, 3], 1, grad_norm=lambda s, i: float(s) if s in (1, 2) else math.nan)).layers
    assert layers is not None
    assert dict(layers.first_and_last) == {"grad_norm": ((1.0, 2.0),)}
    assert math.isnan(layers.over_steps["grad_norm"][0][0])


def test_many_samples_share_columns_by_their_highest_value() -> None:
    layers = run_charts(*_history(list(range(1000)), grad_norm=lambda s, i: 50.0 if (s, i) == (777, 1) else 1.0)).layers
    assert layers is not None
    assert len(layers.steps) == MAX_COLUMNS
    assert layers.steps[0][0] == 0
    assert layers.steps[-1][1] == 999
    assert all(a[1] < b[0] for a, b in zip(layers.steps, layers.steps[1:], strict=False))
    (column,) = (i for i, (first, last) in enumerate(layers.steps) if first <= 777 <= last)
    assert [row[column] for row in layers.over_steps["grad_norm"]] == [1.0, 50.0, 1.0]
    assert sum(value == 50.0 for row in layers.over_steps["grad_norm"] for value in row) == 1


@pytest.mark.parametrize("odd", [math.inf, 0.0, 1e9, 1e-9])
def test_of_many_layers_named_and_odd_ones_are_kept(odd: float) -> None:
    history, context = _history(
        [0, 1, 2], 500, grad_norm=lambda s, i: odd if (s, i) == (1, 250) else 1 + i % 7 / 10, saturated=0.0
    )
    finding = Finding("p", "AT1", Severity.ERROR, 0.9, "m", layers=("layer100", "layer123"))
    layers = run_charts(history, context, [finding]).layers
    assert layers is not None
    assert len(layers.names) == MAX_ROWS
    assert layers.more_layers == 500 - MAX_ROWS
    assert {"layer0", "layer100", "layer123", "layer250", "layer499"} <= set(layers.names)
    assert list(layers.names) == sorted(layers.names, key=lambda name: int(name[5:])), "in forward order"


def test_a_finding_that_names_all_layers_leaves_room_for_others() -> None:
    history, context = _history([0, 1], 500, grad_norm=lambda s, i: 1e6 if i == 400 else 1.0)
    finding = Finding("p", "AT1", Severity.ERROR, 0.9, "m", layers=tuple(info.name for info in history.layers))
    layers = run_charts(history, context, [finding]).layers
    assert layers is not None
    assert "layer400" in layers.names


def test_charts_survive_strict_json() -> None:
    history, context = _history([0, 1, 2], epochs=1, grad_norm=lambda s, i: [math.nan, math.inf, 0.5][s])
    charts = run_charts(history, context)
    text = json.dumps(plain(asdict(charts)), allow_nan=False)
    rebuilt = rebuild(RunCharts, json.loads(text))
    assert json.dumps(plain(asdict(rebuilt))) == text


@pytest.mark.slow
def test_size_and_time_are_bounded_however_long_and_deep_the_run() -> None:
    def cost(length: int, layers: int) -> tuple[int, float, Any]:
        steps = [int(step) for step in np.unique(np.geomspace(1, length, 1200).astype(int)) - 1]
        history, context = _history(steps, layers, epochs=100, grad_norm=0.5, dead_units=0.1)
        begin = time.process_time()
        charts = run_charts(history, context)
        return len(json.dumps(plain(asdict(charts)))), time.process_time() - begin, charts

    short, quick, _ = cost(2_000, 40)
    long, slow, charts = cost(10_000_000, 2_000)
    assert long < 2 * short
    assert slow < 2_000 / 40 * quick
    assert charts.last_step == 9_999_999
