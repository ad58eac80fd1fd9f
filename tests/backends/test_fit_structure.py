"""`fit` repairs the structure of faulty programs in both frameworks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import autotrainer
from autotrainer.reporting.result import Result

pytestmark = pytest.mark.slow

FRAMEWORKS = ("pytorch", "keras3")
every_framework = pytest.mark.parametrize("framework", FRAMEWORKS)
Data = tuple[np.ndarray, np.ndarray]


def _digits() -> tuple[Data, Data]:
    inputs, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    x, y = (inputs[order] / 16).astype("float32"), classes[order].astype("int64")
    return (x[:1000], y[:1000]), (x[1000:], y[1000:])


def _recall() -> tuple[Data, Data]:
    """Six distinct keys, a query that is one of them, and a value for each key: the target is the query's value."""
    random, halves = np.random.default_rng(0), []
    for rows in (1500, 500):
        keys = np.stack([random.permutation(12)[:6] for _ in range(rows)])
        values, query = random.integers(0, 4, (rows, 6)), random.integers(0, 6, rows)
        query_keys = keys[np.arange(rows), query]
        halves.append((np.c_[keys, query_keys, values].astype("int64"), values[np.arange(rows), query].astype("int64")))
    return halves[0], halves[1]


def _dense(framework: str, widths: Sequence[int], activation: str, output_scale: float = 1.0) -> Any:
    if framework == "keras3":
        inner = [
            keras.layers.Dense(n, activation, kernel_initializer=keras.initializers.GlorotUniform(seed))
            for seed, n in enumerate(widths[1:-1])
        ]
        last = keras.layers.Dense(widths[-1], kernel_initializer=keras.initializers.GlorotUniform(99))
        model = keras.Sequential([keras.Input((widths[0],)), *inner, last])
        last.kernel.assign(last.kernel * output_scale)
        return model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}[activation]
        modules: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            modules += [nn.Linear(before, after), kind()]
    with torch.no_grad():
        modules[-2].weight *= output_scale  # type: ignore[operator]
    return nn.Sequential(*modules[:-1])


class Recall(nn.Module):
    """Attention from the query to all keys and their values."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.words, self.values = nn.Embedding(12, 16), nn.Embedding(4, 16)
        self.attention, self.out = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4)
        with torch.no_grad():
            self.attention.in_proj_weight[:32] *= gain

    def forward(self, tokens: torch.Tensor) -> Any:
        keys, query, values = self.words(tokens[:, :6]), self.words(tokens[:, 6:7]), self.values(tokens[:, 7:])
        return self.out(self.attention(query, keys, values, need_weights=False)[0][:, 0])


def _attention_model(framework: str, gain: float) -> Any:
    if framework == "pytorch":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Recall(gain)
    keras.utils.set_random_seed(0)
    tokens = keras.Input((13,), dtype="int32")
    words, values = (keras.layers.Embedding(n, 16, keras.initializers.RandomNormal(stddev=1.0)) for n in (12, 4))
    attention = keras.layers.MultiHeadAttention(2, 8)
    attended = attention(words(tokens[:, 6:7]), values(tokens[:, 7:]), words(tokens[:, :6]))
    model = keras.Model(tokens, keras.layers.Dense(4)(keras.layers.Flatten()(attended)))
    for variable in attention.weights:
        if "kernel" in variable.path and ("query" in variable.path or "key" in variable.path):
            variable.assign(variable * gain)
    return model


def _fit(framework: str, model: Any, data: tuple[Data, Data], optimizer: str, rate: float, **options: Any) -> Result:
    torch.set_num_threads(1)
    if framework == "keras3":
        loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made: Any = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[optimizer](rate)
    else:
        kinds: dict[str, Callable[..., Any]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        loss, made = nn.CrossEntropyLoss(), kinds[optimizer](model.parameters(), rate)
    options = {"epochs": 15, "batch_size": 32, "budget": 4.0, "progress": False} | options
    return autotrainer.fit(model, *data, loss=loss, optimizer=made, **options)


def _repaired_by(result: Result, repair: str, score: float) -> None:
    assert result.status in ("repaired", "improved"), [str(f) for f in result.findings]
    assert repair in result.plan.repairs, [(a.plan.repairs, a.score, a.error) for a in result.attempts]
    assert result.score > score > result.baseline_score + 0.2
    assert result.cost <= 4


@every_framework
def test_bottleneck_is_widened(framework: str) -> None:
    result = _fit(framework, _dense(framework, (64, 32, 1, 32, 10), "relu"), _digits(), "adam", 3e-3)
    assert result.plan is not None
    assert "insufficient_capacity" in result.plan.problems
    _repaired_by(result, "resize_hidden_layers", 0.85)


@every_framework
def test_large_output_layer_is_scaled_down(framework: str) -> None:
    model = _dense(framework, (64, 32, 32, 10), "relu", output_scale=1000.0)
    result = _fit(framework, model, _digits(), "sgd", 0.05)
    assert "abnormal_initial_loss" in [f.problem for f in result.findings]
    _repaired_by(result, "scale_output_layer", 0.8)


@every_framework
def test_deep_stack_gets_residual_connections(framework: str) -> None:
    model = _dense(framework, (64, *[32] * 8, 10), "sigmoid")
    others = ["swap_activation", "insert_normalization", "reinitialize"]
    result = _fit(framework, model, _digits(), "adam", 1e-2, forbid=others)
    assert "vanishing_gradient" in [f.problem for f in result.findings]
    _repaired_by(result, "add_residual", 0.8)


@every_framework
def test_large_attention_logits_are_bounded(framework: str) -> None:
    result = _fit(framework, _attention_model(framework, 30.0), _recall(), "adam", 3e-3)
    assert "attention_entropy_collapse" in [f.problem for f in result.findings]
    _repaired_by(result, "clip_attention", 0.8)
