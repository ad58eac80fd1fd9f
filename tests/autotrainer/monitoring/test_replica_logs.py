"""Comparison of the logs of several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from autotrainer.monitoring.logs.replica_logs import compare_replicas, same_model
from autotrainer.records.facts import FACTS
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import TargetSummary

LAYERS = (LayerInfo("fc1", parameters=10), LayerInfo("relu"), LayerInfo("out", parameters=3))
NORMS = (2.0, np.nan, 1.0)


def history(
    steps: Sequence[int] = range(12), *, norms: Sequence[float] = NORMS, scalars: Mapping[str, object] | None = None
) -> RunHistory:
    """Return a history whose batches depend on the step, unless `scalars` has another value or function of the step."""
    columns = {"input_max_abs": lambda t: 1 + np.sin(t), "target_spread": 0.5} | dict(scalars or {})
    result = RunHistory(LAYERS)
    for step in steps:
        row = np.full(len(STEP_COLUMNS), np.nan)
        for name, value in columns.items():
            row[STEP_COLUMNS.index(name)] = value(step) if callable(value) else value
        table = np.full((3, len(LAYER_COLUMNS)), np.nan)
        table[:, LAYER_COLUMNS.index("weight_norm")] = norms
        result.add_step(StepStats(step, 0, row, table), (), TargetSummary())
    return result


OTHER_BATCHES = {"input_max_abs": lambda t: 1 + np.cos(t)}


def test_replicas_of_the_same_training() -> None:
    facts = compare_replicas(history(), [history(scalars=OTHER_BATCHES)] * 3)
    assert facts == {
        "replicas": 4,
        "replica_steps": 12,
        "replica_gap": 0,
        "replica_worst_gap": 0,
        "replica_layer": 0,
        "replica_twins": 0,
    }
    assert set(facts) <= set(FACTS)


@pytest.mark.parametrize(
    ("norms", "gap", "worst", "layer"),
    [
        ((2.02, np.nan, 1.1), (0.02 / 2.02 + 0.1 / 1.1) / 2, 0.1 / 1.1, 2),
        ((2.0, np.nan, 1.0000001), 0.5e-7, 1e-7, 2),
        ((np.inf, np.nan, 1.0), 0.5, 1.0, 0),
        ((2.0, 7.0, 1.0), 0, 0, 0),
        ((2.0, np.nan, np.nan), 0, 0, 0),
    ],
)
def test_weight_gaps(norms: tuple[float, ...], gap: float, worst: float, layer: int) -> None:
    facts = compare_replicas(history(), [history(), history(norms=norms)])
    assert facts["replica_gap"] == pytest.approx(gap, rel=1e-3)
    assert facts["replica_worst_gap"] == pytest.approx(worst, rel=1e-3)
    assert facts["replica_layer"] == layer


def test_only_common_steps_are_compared() -> None:
    late = history(range(6, 20), norms=(5.0, np.nan, 1.0))
    assert compare_replicas(history(), [late])["replica_steps"] == 6
    assert compare_replicas(history(), [history(range(20, 30))]) == {}
    assert compare_replicas(history(), []) == {}


def test_equal_batches_are_detected() -> None:
    twins = [history(), history(scalars=OTHER_BATCHES)]
    assert compare_replicas(history(), twins)["replica_twins"] == 0.5
    one_differs = {"input_max_abs": lambda t: 1 + np.sin(t) + (t == 5)}
    assert compare_replicas(history(), [history(scalars=one_differs)])["replica_twins"] == 0


def test_indistinguishable_batches_are_not_compared() -> None:
    same = history(scalars={"input_max_abs": 1.0})
    assert "replica_twins" not in compare_replicas(same, [same])
    assert "replica_twins" not in compare_replicas(history(range(5)), [history(range(5))])


def test_different_models_are_distinguished() -> None:
    assert same_model(history(), history())
    assert not same_model(history(), RunHistory(LAYERS[:2]))
