"""A statistic that can't be measured is left out alone, and named in the report."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

import autotrainer
from autotrainer.backends.keras3.engines import step_recorder
from autotrainer.backends.keras3.statistics import activations, embeddings, layer_table, weights
from autotrainer.backends.keras3.watching import step_measurement
from autotrainer.monitoring import summary
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.signals import LAYER_COLUMNS

RANDOM = np.random.RandomState(0)
TOKENS = RANDOM.randint(0, 20, (32, 6))
LABELS = TOKENS[:, 0] % 3


def train() -> Monitor:
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32")
    x = kl.LayerNormalization()(kl.Embedding(20, 8)(tokens))
    x = kl.ReLU()(x + kl.MultiHeadAttention(2, 4)(x, x))
    model = keras.Model(tokens, kl.Dense(3)(kl.Dropout(0.1)(kl.GlobalAveragePooling1D()(x))))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=False)
    with autotrainer.watch(model, overhead=1, log_dir=None) as monitor:
        model.fit(TOKENS, LABELS, batch_size=8, epochs=2, verbose=0)
    return monitor


def measured(monitor: Monitor, column: str) -> bool:
    history = monitor.history
    values = history.layer(column) if column in LAYER_COLUMNS else history.scalar(column)
    return len(values) >= 4 and not np.isnan(values).all()


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("unforeseen")


SIGNALS = {
    "activations": "activation_std",
    "attention": "attention_entropy",
    "embeddings": "lookups_without_gradient",
    "gradient direction": "gradient_cosine",
    "gradients": "grad_norm",
    "inputs": "batch_size",
    "learning rate": "learning_rate",
    "modes": "training_mode",
    "normalization": "normalized_rms",
    "optimizer state": "second_moment_ratio",
    "outputs": "output_spread",
    "targets": "class_entropy",
    "weight updates": "update_ratio",
    "weights": "weight_norm",
}
PATCHES: tuple[tuple[str, Any, str], ...] = (
    ("activations", activations, "_all_but_units"),
    ("attention", step_recorder, "attention_tensors"),
    ("attention", layer_table, "attention_values"),
    ("embeddings", embeddings, "_without_gradient"),
    ("gradient direction", weights.WeightStatistics, "_cosine"),
    ("learning rate", step_measurement, "learning_rate"),
    ("normalization", layer_table, "normalization_values"),
    ("optimizer state", weights, "_second_moment_ratios"),
    ("outputs", summary, "_output_values"),
    ("weight updates", weights, "_entries_of"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("statistic", "module", "name"), PATCHES, ids=[f"{p[0]}-{p[2]}" for p in PATCHES])
def test_one_failing_statistic_leaves_the_others(
    statistic: str, module: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, name, fails)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor = train()
    assert [signal for signal, column in SIGNALS.items() if not measured(monitor, column)] == [statistic]
    assert not np.isnan(monitor.history.losses[1]).any()
    complaints = [record.getMessage() for record in caplog.records if "could not be measured" in record.getMessage()]
    assert [statistic in complaint for complaint in complaints] == [True]
    assert monitor.report().run["unmeasured"] == [f"{statistic} (failed)"]


@pytest.mark.slow
def test_healthy_statistics_are_not_named() -> None:
    monitor = train()
    assert all(measured(monitor, column) for column in SIGNALS.values())
    assert monitor.report().run["unmeasured"] == []


def test_a_layer_that_cannot_be_measured_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = layer_table.ActivationStatistics.values

    def values(self: Any, row: int, part: Any, output: Any) -> dict[str, float]:
        return fails() if part.info.kind == "norm" else original(self, row, part, output)

    monkeypatch.setattr(layer_table.ActivationStatistics, "values", values)
    monitor = train()
    kinds = [layer.kind for layer in monitor.history.layers]
    spread = monitor.history.layer("activation_std")
    assert np.isnan(spread[:, kinds.index("norm")]).all()
    assert not np.isnan(spread[:, kinds.index("dense")]).any()
    assert "activations (failed)" in monitor.report().run["unmeasured"]
