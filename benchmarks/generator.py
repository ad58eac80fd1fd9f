"""Makes new pairs of a faulty and a healthy training: one fault put into a training that is known to work.

A case is named ``DATA.NETWORK.FAULT.SEED`` and follows from its name alone, so that it can be made again anywhere. The
seed draws sizes, initializer, optimizer and the strength of the fault. Whether the fault shows is decided by the
scores, as for every other case.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autotrainer.errors import ConfigError

__all__ = ["DATA", "FAULTS", "generate", "names"]

Row = dict[str, Any]

DATA: Mapping[str, Row] = {
    "blob": {"task": "classes", "outputs": 3, "kinds": ("mlp",), "epochs": 30, "reached": 0.85},
    "moons": {"task": "binary", "outputs": 1, "kinds": ("mlp",), "epochs": 40, "reached": 0.99},
    "spirals": {"task": "classes", "outputs": 3, "kinds": ("mlp",), "epochs": 60, "reached": 0.99},
    "cancer": {"task": "binary", "outputs": 1, "kinds": ("mlp",), "epochs": 25, "reached": 0.97, "raw": True},
    "wine": {"task": "classes", "outputs": 3, "kinds": ("mlp",), "epochs": 40, "reached": 0.98, "raw": True},
    "digits": {"task": "classes", "outputs": 10, "kinds": ("mlp",), "epochs": 20, "reached": 0.98},
    "digit_images": {"task": "classes", "outputs": 10, "kinds": ("cnn",), "epochs": 12, "reached": 0.98},
    "waves": {"task": "binary", "outputs": 1, "kinds": ("lstm", "cnn1d"), "epochs": 20, "reached": 0.99},
    "diabetes": {"task": "value", "outputs": 1, "kinds": ("mlp",), "epochs": 30, "reached": 0.39, "raw": True},
    "friedman": {"task": "value", "outputs": 1, "kinds": ("mlp",), "epochs": 40, "reached": 0.95},
}
"""Data sets with what their healthy trainings are like. ``reached``: the best test score of logistic (ridge)
regression, a support vector machine (C = 10; 1 for values) and gradient boosting of scikit-learn, rounded down."""

_Fault = Callable[[Row, Row, np.random.Generator], Row | None]


def names(count: int, seed: int = 0) -> list[str]:
    """Return names of cases: each data set, network and fault in turn, with seeds that go on.

    Args:
        count: How many.
        seed: Draws the order.
    """
    pairs = [
        (data, kind, fault)
        for (data, spec), fault in itertools.product(DATA.items(), FAULTS)
        for kind in spec["kinds"]
        if _applies(data, kind, fault)
    ]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [".".join((*pairs[order[i % len(pairs)]], str(seed + i // len(pairs)))) for i in range(count)]


def generate(name: str) -> Row:
    """Return a case as a line of a case file.

    Args:
        name: ``DATA.NETWORK.FAULT.SEED``.

    Raises:
        ConfigError: If there is no such data set, network or fault, or they don't go together.
    """
    parts = name.split(".")
    if len(parts) != 4 or parts[0] not in DATA or parts[2] not in FAULTS or not parts[3].isdecimal():
        raise ConfigError(
            f"a generated case is named DATA.NETWORK.FAULT.SEED, not {name!r}; "
            f"data: {', '.join(DATA)}; faults: {', '.join(FAULTS)}"
        )
    data, kind, fault, _ = parts
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    healthy = _healthy(data, kind, draw) if kind in DATA[data]["kinds"] else None
    words, inject = FAULTS[fault]
    change = inject(healthy, DATA[data], draw) if healthy is not None else None
    if healthy is None or change is None:
        raise ConfigError(f"{fault} can't be put into {kind} on {data}")
    faulty = {**healthy, **change, "dataset": {**healthy["dataset"], **change.get("dataset", {})}}
    return {
        **faulty,
        "id": name,
        "faults": [words],
        "fix": {key: healthy[key] for key in change},
        "measured": {"torch": {"fixed": [DATA[data]["reached"]]}},
    }


def _applies(data: str, kind: str, fault: str) -> bool:
    return (
        FAULTS[fault][1](_healthy(data, kind, np.random.default_rng(0)), DATA[data], np.random.default_rng(0))
        is not None
    )


def _healthy(data: str, kind: str, draw: np.random.Generator) -> Row:
    """Return a training that works."""
    spec = DATA[data]
    activation, init = _pick(draw, ("relu", "he_uniform"), ("relu", "he_normal"), ("tanh", "glorot_uniform"))
    width = int(_pick(draw, 32, 64))
    hidden: list[Row]
    if kind == "mlp":
        depth = int(_pick(draw, 2, 3))
        hidden = [{"type": "dense", "units": width, "activation": activation, "init": init} for _ in range(depth)]
    elif kind == "lstm":
        hidden = [{"type": "lstm", "units": int(_pick(draw, 16, 24))}]
    else:
        conv = "conv2d" if kind == "cnn" else "conv1d"
        common = {"type": conv, "kernel": 3, "padding": "same", "activation": activation, "init": init}
        pool = {"type": "maxpool" + conv[-2:], "size": 2}
        hidden = [{**common, "filters": 8}, pool, {**common, "filters": 16}, pool, {"type": "flatten"}]
        hidden.append({"type": "dense", "units": 32, "activation": activation, "init": init})
    head, loss, layout = {
        "binary": ("sigmoid", "bce", "binary"),
        "classes": ("softmax", "scce", "index"),
        "value": (None, "mse", "float"),
    }[spec["task"]]
    name, rate = _pick(draw, ("adam", 0.003), ("rmsprop", 0.002), ("sgd", 0.05))
    optimizer = {"name": name, "lr": rate, **({"momentum": 0.9} if name == "sgd" else {})}
    if kind == "lstm":
        optimizer = {"name": "adam", "lr": 0.01}
    return {
        "layers": [*hidden, {"type": "dense", "units": spec["outputs"], "activation": head}],
        "loss": loss,
        "optimizer": optimizer,
        "batch_size": int(_pick(draw, 16, 32)),
        "epochs": spec["epochs"],
        "dataset": {
            "generator": data,
            "scaling": "raw" if data in ("digit_images", "waves") else "standard",
            "target_scaling": "standard" if spec["task"] == "value" else "raw",
            "label_encoding": layout,
        },
        "default_init": "glorot_uniform",
        "metric": "r2" if spec["task"] == "value" else "accuracy",
    }


def _pick(draw: np.random.Generator, *choices: Any) -> Any:
    return choices[int(draw.integers(len(choices)))]


def _layers(row: Row, change: Callable[[int, Row], Row]) -> Row | None:
    """Change the hidden layers with an activation, given their number and settings; None if there are none."""
    weighted = [i for i, layer in enumerate(row["layers"][:-1]) if "activation" in layer]
    layers = [change(weighted.index(i), layer) if i in weighted else layer for i, layer in enumerate(row["layers"])]
    return {"layers": layers} if weighted else None


def _head(row: Row, **settings: Any) -> Row:
    return {"layers": [*row["layers"][:-1], {**row["layers"][-1], **settings}]}


def _rate(row: Row, factor: float) -> Row:
    return {"optimizer": {**row["optimizer"], "lr": row["optimizer"]["lr"] * factor}}


def _rate_too_high(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _rate(row, float(_pick(draw, 30, 100, 300)))


def _rate_too_low(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _rate(row, float(_pick(draw, 1e-2, 1e-3, 1e-4)))


def _init(to: str) -> _Fault:
    def inject(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
        return _layers(row, lambda i, layer: {**layer, "init": to})

    return inject


def _dead_units(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    bias, where = float(_pick(draw, -10, -30)), int(draw.integers(2))
    return _layers(
        row, lambda i, layer: {**layer, "activation": "relu", **({"bias_const": bias} if i == where else {})}
    )


def _deep_sigmoid(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    if row["layers"][0]["type"] != "dense":
        return None
    one = {"type": "dense", "units": row["layers"][0]["units"], "activation": "sigmoid"}
    return {"layers": [one] * int(_pick(draw, 6, 8, 10)) + row["layers"][-1:]}


def _relu_output(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    loss = "bce_clipped" if row["loss"] == "bce" else row["loss"]  # PyTorch's own refuses probabilities above 1
    return {**_head(row, activation="relu"), "loss": loss}


def _one_unit_softmax(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _head(row, activation="softmax") if spec["outputs"] == 1 else None


def _sigmoid_for_values(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _head(row, activation="sigmoid") if spec["task"] == "value" else None


def _mse_for_labels(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"loss": "mse"} if spec["task"] == "binary" else None


def _raw_inputs(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"dataset": {**row["dataset"], "scaling": "raw"}} if spec.get("raw") else None


def _raw_targets(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"dataset": {**row["dataset"], "target_scaling": "raw"}} if spec["task"] == "value" else None


def _signed_labels(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return (
        {"loss": "bce_clipped", "dataset": {**row["dataset"], "label_encoding": "pm1"}}
        if spec["outputs"] == 1 and spec["task"] == "binary"
        else None
    )


def _single_rows(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"batch_size": 1, "optimizer": {"name": "sgd", "lr": float(_pick(draw, 0.05, 0.1)), "momentum": 0.9}}


def _few_epochs(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"epochs": int(_pick(draw, 1, 2)), **_rate(row, 0.1)}


def _bottleneck(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return (
        _layers(row, lambda i, layer: {**layer, "units": 1} if "units" in layer else layer)
        if row["layers"][0]["type"] == "dense"
        else None
    )


FAULTS: Mapping[str, tuple[str, _Fault]] = {
    "bottleneck": ("too few units (1-unit bottleneck)", _bottleneck),
    "dead_units": ("dead activation", _dead_units),
    "deep_sigmoid": ("wrong hidden activation", _deep_sigmoid),
    "few_epochs": ("too few epochs", _few_epochs),
    "mse_for_labels": ("wrong loss", _mse_for_labels),
    "one_unit_softmax": ("wrong output activation", _one_unit_softmax),
    "ones_init": ("bad initialisation", _init("ones")),
    "rate_too_high": ("lr too high", _rate_too_high),
    "rate_too_low": ("lr too low", _rate_too_low),
    "raw_inputs": ("missing normalisation", _raw_inputs),
    "raw_targets": ("targets not scaled", _raw_targets),
    "relu_output": ("wrong output activation", _relu_output),
    "sigmoid_for_values": ("targets out of output range", _sigmoid_for_values),
    "signed_labels": ("labels -1/1 with cross-entropy", _signed_labels),
    "single_rows": ("batch too small", _single_rows),
    "zero_init": ("bad initialisation", _init("zeros")),
}
"""Faults by name: in the words of the cases, and what puts it into a training (None where it can't be)."""
