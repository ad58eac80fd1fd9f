"""Reductions to the layer table."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.backends.keras3.runtime.tensors import dot
from autotrainer.backends.keras3.statistics.layer_table import LayerTable
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import LAYER_COLUMNS


@pytest.mark.parametrize(
    ("needs", "measured"),
    [
        (None, True),
        (frozenset({"loss", "activation_max_abs"}), True),
        (frozenset({"dead_units"}), True),
        (frozenset({"loss", "grad_norm"}), False),
    ],
)
def test_activations_are_measured_only_if_needed(needs: frozenset[str] | None, measured: bool) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])
    meter = LayerTable(watched_layers(model), StatisticGuard(pytest.fail), needs)
    meter.before_step()
    table = meter.table({"activation:0": np.ones((8, 3), np.float32), "gradient:0:0": np.ones((4, 3), np.float32)})
    found = dict(zip(LAYER_COLUMNS, table[0].tolist(), strict=True))
    assert np.isfinite([found["grad_norm"], found["weight_norm"]]).all()
    assert np.isfinite(found["activation_std"]) == measured


@pytest.mark.parametrize("size", [0, 7, 20_000, 1 << 18])
def test_scalar_product(size: int) -> None:
    a, b = np.random.RandomState(0).randn(2, size).astype("float32")
    assert dot(a, b) == pytest.approx(math.fsum(a.astype("float64") * b), rel=1e-3, abs=1e-3)
