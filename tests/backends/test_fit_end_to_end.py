"""`fit` from end to end, the same call in both frameworks: real trainings, real rules, real repairs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer import registry
from autotrainer.edits import InsertNormalization
from autotrainer.errors import ConfigError, DataError
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.result import Result

Layers = Sequence[tuple[int, str]]
Data = tuple[np.ndarray, np.ndarray]


def _torch(layers: Layers, loss: str, optimizer: str, rate: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    kinds: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "softmax": lambda: nn.Softmax(-1),
    }
    modules: list[nn.Module] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        width = 2
        for units, activation in layers:
            modules.append(nn.Linear(width, units))
            modules += [kinds[activation]()] if activation in kinds else []
            width = units
    model = nn.Sequential(*modules)
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](model.parameters(), rate)
    return {"model": model, "loss": {"bce": nn.BCELoss(), "mse": nn.MSELoss()}[loss], "optimizer": made}


def _keras(layers: Layers, loss: str, optimizer: str, rate: float) -> dict[str, Any]:
    dense = [
        keras.layers.Dense(units, activation, kernel_initializer=keras.initializers.GlorotUniform(seed))
        for seed, (units, activation) in enumerate(layers)
    ]
    model = keras.Sequential([keras.Input((2,)), *dense])
    made = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[optimizer](rate)
    return {"model": model, "loss": {"bce": "binary_crossentropy", "mse": "mse"}[loss], "optimizer": made}


pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning")  # it is the fault

FRAMEWORKS = {"pytorch": _torch, "keras3": _keras}


@pytest.fixture(params=list(FRAMEWORKS))
def make(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    return FRAMEWORKS[request.param]


def _weights(model: Any) -> list[np.ndarray]:
    if isinstance(model, nn.Module):
        return [value.detach().numpy().copy() for value in model.state_dict().values()]
    return [np.array(value) for value in model.get_weights()]


def _equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(_weights(a), _weights(b), strict=True))


def _circle() -> tuple[Data, Data]:
    random = np.random.default_rng(1)
    labels = np.tile([0.0, 1.0], 300)
    angles = random.uniform(0, 2 * np.pi, 600)
    inputs = np.c_[np.cos(angles), np.sin(angles)] * np.where(labels, 0.5, 1.0)[:, None]
    return _halves(inputs + random.normal(0, 0.1, (600, 2)), labels[:, None])


def _curve(scale: float = 1.0, offset: float = 0.0) -> tuple[Data, Data]:
    random = np.random.default_rng(2)
    inputs = random.normal(size=(600, 2))
    targets = inputs[:, :1] - 2 * inputs[:, 1:] + np.sin(2 * inputs[:, :1]) + 0.1 * random.normal(size=(600, 1))
    return _halves(inputs * [1.0, scale] + [0.0, offset], targets)


def _halves(inputs: np.ndarray, targets: np.ndarray) -> tuple[Data, Data]:
    x, y = inputs.astype(np.float32), targets.astype(np.float32)
    return (x[:400], y[:400]), (x[400:], y[400:])


def _fit(arguments: dict[str, Any], data: tuple[Data, Data], **options: Any) -> Result:
    options = {"epochs": 20, "batch_size": 32, "budget": 4.0, "progress": False} | options
    return autotrainer.fit(arguments.pop("model"), *data, **arguments, **options)


HEALTHY: Layers = [(16, "relu"), (16, "relu"), (1, "sigmoid")]

FAULTY = {
    "vanishing gradient": ([(5, "sigmoid")] * 8 + [(1, "sigmoid")], "bce", "adam", 1e-3, _circle(), 0.15),
    "softmax over one unit": ([(16, "relu"), (16, "relu"), (1, "softmax")], "bce", "adam", 1e-2, _circle(), 0.4),
    "output that can't be negative": ([(16, "relu"), (1, "relu")], "mse", "adam", 1e-2, _curve(), 0.3),
    "unscaled inputs": ([(16, "relu"), (16, "relu"), (1, "linear")], "mse", "sgd", 1e-2, _curve(1e4, -3e4), 1.5),
    "rate far too high": ([(16, "relu"), (16, "relu"), (1, "linear")], "mse", "sgd", 3.0, _curve(), 1.5),
}
"""By fault: layers, loss, optimizer, learning rate, data, and the minimum gain."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        pytest.param(make, fault, id=f"{name}-{fault}")
        for fault in FAULTY
        for name, make in FRAMEWORKS.items()
        if (name, fault) != ("keras3", "softmax over one unit")  # which is in test_fit_output.py
    ],
)
def test_faulty_trainings_are_repaired(make: Callable[..., dict[str, Any]], fault: str) -> None:
    layers, loss, optimizer, rate, data, gain = FAULTY[fault]
    arguments = make(layers, loss, optimizer, rate)
    model, before = arguments["model"], _weights(arguments["model"])
    result = _fit(arguments, data, epochs=40 if fault == "vanishing gradient" else 15)
    assert result.status in ("repaired", "improved"), [str(f) for f in result.findings]
    assert result.score - result.baseline_score > gain
    assert result.cost <= 4.0
    assert result.plan is not None
    assert all(np.array_equal(a, b) for a, b in zip(before, _weights(model), strict=True)), (
        "the given model was changed"
    )
    predicted = _predict(result.model, data[1][0])
    assert _score(result.metric, data[1][1], predicted) == pytest.approx(result.score, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("make", [_torch, _keras])
def test_few_validation_rows_suffice_where_the_original_has_learned_nothing(
    make: Callable[..., dict[str, Any]],
) -> None:
    train, (x, y) = _circle()
    layers: Layers = [(16, "relu"), (16, "relu"), (1, "softmax")]
    result = _fit(make(layers, "bce", "adam", 1e-2), (train, (x[:8], y[:8])), epochs=15, budget=4.0)
    assert (result.status, result.baseline_score, result.score) == ("repaired", 0.5, 1.0)
    assert all(attempt.verdict in ("", "original") for attempt in result.attempts), "none is repeated with another seed"
    assert result.cost <= 4.0
    assert _score("accuracy", y[:8], _predict(result.model, x[:8])) == 1.0


def _predict(model: Any, inputs: np.ndarray) -> np.ndarray:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return model(torch.from_numpy(inputs)).numpy()
    return np.asarray(model.predict_on_batch(inputs))


def _score(metric: str, targets: np.ndarray, outputs: np.ndarray) -> float:
    if metric == "accuracy":
        return float(np.mean((outputs > 0.5) == targets))
    return float(1 - np.mean((outputs - targets) ** 2) / targets.var())


def test_healthy_training_is_unchanged_by_repair(make: Callable[..., dict[str, Any]]) -> None:
    results = [_fit(make(HEALTHY, "bce", "adam", 1e-2), _circle(), repair=repair) for repair in (True, False)]
    assert results[0].status == results[1].status == "healthy", [str(f) for f in results[0].findings]
    assert results[0].score > 0.9
    assert results[0].attempts == []
    assert results[0].cost == 1.0
    assert _equal(results[0].model, results[1].model)


def test_equal_calls_give_equal_results(make: Callable[..., dict[str, Any]]) -> None:
    layers: Layers = [(8, "relu"), (1, "softmax")]
    results = [_fit(make(layers, "bce", "adam", 1e-2), _circle(), epochs=8, budget=2.5) for _ in range(2)]
    assert [a.plan for a in results[0].attempts] == [a.plan for a in results[1].attempts]
    assert [a.score for a in results[0].attempts] == [a.score for a in results[1].attempts]
    assert results[0].cost == results[1].cost <= 2.5
    assert _equal(results[0].model, results[1].model)


def test_saved_plan_applies_to_a_fresh_model(make: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    layers: Layers = [(16, "relu"), (1, "softmax")]
    result = _fit(make(layers, "bce", "adam", 1e-2), _circle(), epochs=10, budget=2.5)
    assert result.plan is not None
    folder = result.save(tmp_path / "result")
    names = {path.name for path in folder.iterdir()}
    assert {"plan.json", "attempts.json", "report.json", "report.html"} < names
    assert names & {"model.pt", "model.keras"}
    fresh = make(layers, "bce", "adam", 1e-2)
    optimizer = fresh["optimizer"] if isinstance(fresh["model"], nn.Module) else None
    repeated, _ = autotrainer.load_plan(folder / "plan.json").apply(fresh["model"], optimizer)
    shapes = [[value.shape for value in _weights(model)] for model in (repeated, result.model)]
    assert shapes[0] == shapes[1]
    outputs = _predict(repeated, _circle()[1][0])
    assert outputs.std() > 0, "a softmax over one unit is always 1"


def test_plan_with_layer_names_applies_to_a_fresh_model(make: Callable[..., dict[str, Any]]) -> None:
    """Keras gives the layers of each new model new names: they are matched by position."""
    layers: Layers = [(5, "sigmoid")] * 3 + [(1, "sigmoid")]
    arguments = make(layers, "bce", "adam", 1e-2)
    backend = registry.backend_of(arguments["model"])
    names = tuple(layer.name for layer in backend.layers(arguments["model"]))
    edits = (InsertNormalization(names[:1]),)
    plan = RepairPlan(("insert_normalization",), edits, framework=backend.name, layers=names)
    fresh = make(layers, "bce", "adam", 1e-2)["model"]
    before = len(_weights(fresh))
    repeated, _ = RepairPlan.from_dict(json.loads(plan.to_json())).apply(fresh)
    assert len(_weights(repeated)) > before


@pytest.mark.parametrize(("shift", "message"), [(2, r"class index 3.*3 outputs"), (-1, r"class index -1.*3 outputs")])
def test_class_indices_out_of_range_are_rejected(make: Callable[..., dict[str, Any]], shift: int, message: str) -> None:
    arguments = make([(8, "relu"), (3, "linear")], "bce", "adam", 1e-2)
    torch_model = isinstance(arguments["model"], nn.Module)
    arguments["loss"] = nn.CrossEntropyLoss() if torch_model else "sparse_categorical_crossentropy"
    (x, y), _ = _circle()
    data = x, y[:, 0].astype(np.int64) + shift
    with pytest.raises(DataError, match=message):
        _fit(arguments, (data, data), repair=False)


@pytest.mark.parametrize("masked", [-1, 0, 255])
def test_ignored_class_does_not_count(make: Callable[..., dict[str, Any]], masked: int) -> None:
    """As for padding in sequences: neither out of range nor part of the accuracy."""
    arguments = make([(8, "relu"), (3, "linear")], "bce", "adam", 1e-2)
    if isinstance(arguments["model"], nn.Module):
        arguments["loss"] = nn.CrossEntropyLoss(ignore_index=masked)
    else:
        arguments["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=masked)
    (x, y), (xv, yv) = _circle()
    labels, held = y[:, 0].astype(np.int64) + 1, yv[:, 0].astype(np.int64) + 1
    labels[::4] = held[::3] = masked
    result = _fit(arguments, ((x, labels), (xv, held)), repair=False)
    counted = held != masked
    right = _predict(result.model, xv).argmax(1) == held
    assert result.metric == "accuracy"
    assert result.score == pytest.approx(right[counted].mean(), abs=1e-9)


def test_loss_class_instead_of_object_is_rejected(make: Callable[..., dict[str, Any]]) -> None:
    arguments = make(HEALTHY, "bce", "adam", 1e-2)
    arguments["loss"] = nn.BCELoss if isinstance(arguments["model"], nn.Module) else keras.losses.BinaryCrossentropy
    with pytest.raises(ConfigError, match="pass an instance"):
        _fit(arguments, _circle())


def test_interrupt_returns_the_best_so_far(make: Callable[..., dict[str, Any]]) -> None:
    calls = []

    def accuracy(targets: np.ndarray, outputs: np.ndarray) -> float:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return float(np.mean((outputs > 0.5) == targets))

    result = _fit(make(HEALTHY, "bce", "adam", 1e-2), _circle(), metric=accuracy)
    assert (result.stopped_by, len(result.history["score"])) == ("interrupt", 3)
    assert np.isfinite(_predict(result.model, _circle()[1][0])).all()


def test_errors_of_the_loss_are_not_hidden(make: Callable[..., dict[str, Any]]) -> None:
    arguments = make(HEALTHY, "bce", "adam", 1e-2)

    def loss(*arguments: Any) -> Any:
        raise ZeroDivisionError("in the user's loss")

    arguments["loss"] = loss
    with pytest.raises(ZeroDivisionError, match="user's loss"):
        _fit(arguments, _circle())
    assert copy.deepcopy(arguments["optimizer"]) is not None
