"""Randomly drawn trainings that are known to work, into which the generator injects faults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.data.builtin import VOCABULARY
from benchmarks.data.files import WORDS

__all__ = ["DATA", "Row", "healthy", "pick"]

Row = dict[str, Any]
ACTIVATIONS = (("relu", "he_uniform"), ("relu", "he_normal"), ("tanh", "glorot_uniform"))
ADAMW = {"name": "adamw", "lr": 0.003, "weight_decay": 0.01}

DATA: Mapping[str, Row] = {
    "blob": {"task": "classes", "outputs": 3, "kinds": ("mlp",), "epochs": 30, "easy": True, "reached": 0.85},
    "circle": {
        "task": "binary",
        "outputs": 1,
        "kinds": ("mlp",),
        "activations": (("relu", "he_uniform"), ("relu", "he_normal")),
        "batches": (32,),
        "momentum_rate": 0.02,
        "epochs": 60,
        "reached": 0.85,
    },
    "moons": {"task": "binary", "outputs": 1, "kinds": ("mlp",), "epochs": 40, "easy": True, "reached": 0.99},
    "spirals": {"task": "classes", "outputs": 3, "kinds": ("mlp",), "epochs": 60, "reached": 0.99},
    "iris": {"task": "classes", "outputs": 3, "kinds": ("mlp",), "epochs": 40, "easy": True, "reached": 0.97},
    "cancer": {
        "task": "binary",
        "outputs": 1,
        "kinds": ("mlp", "norm"),
        "epochs": 25,
        "easy": True,
        "reached": 0.97,
        "raw": True,
    },
    "cancer_odd": {
        "task": "binary",
        "outputs": 1,
        "kinds": ("mlp",),
        "epochs": 25,
        "easy": True,
        "reached": 0.94,
        "raw": True,
    },
    "wine": {
        "task": "classes",
        "outputs": 3,
        "kinds": ("mlp", "norm"),
        "epochs": 40,
        "easy": True,
        "reached": 0.96,
        "raw": True,
    },
    "digits": {
        "task": "classes",
        "outputs": 10,
        "kinds": ("mlp", "norm"),
        "momentum_rate": 0.02,
        "epochs": 20,
        "reached": 0.98,
    },
    "digit_images": {
        "task": "classes",
        "outputs": 10,
        "kinds": ("cnn",),
        "momentum_rate": 0.02,
        "epochs": 12,
        "reached": 0.98,
    },
    "shapes": {
        "task": "classes",
        "outputs": 4,
        "kinds": ("cnn", "cnn_norm"),
        "epochs": 12,
        "reached": 0.9,
        "raw": True,
        "scaling": "div255",
    },
    "waves": {"task": "binary", "outputs": 1, "kinds": ("lstm", "gru", "cnn1d"), "epochs": 20, "reached": 0.99},
    "reviews": {
        "task": "binary",
        "outputs": 1,
        "kinds": ("gru", "transformer"),
        "epochs": 12,
        "reached": 0.98,
        "vocabulary": VOCABULARY,
        "scaling": "tokens",
    },
    "diabetes": {
        "task": "value",
        "outputs": 1,
        "kinds": ("mlp",),
        "activations": (("tanh", "glorot_uniform"),),
        "widths": (8,),
        "momentum_rate": 0.01,
        "epochs": 15,
        "reached": 0.39,
        "raw": True,
    },
    "friedman": {
        "task": "value",
        "outputs": 1,
        "kinds": ("mlp",),
        "activations": (("relu", "glorot_uniform"), ("tanh", "glorot_uniform")),
        "widths": (16, 24),
        "momentum_rate": 0.02,
        "epochs": 60,
        "reached": 0.95,
    },
    "arm": {"task": "value", "outputs": 2, "kinds": ("mlp",), "epochs": 30, "reached": 0.99},
    "digit_codes": {
        "generator": "digits",
        "task": "inputs",
        "outputs": 64,
        "kinds": ("autoencoder",),
        "code": 16,
        "epochs": 40,
        "reached": 0.7,
    },
    "cancer_codes": {
        "generator": "cancer",
        "task": "inputs",
        "outputs": 30,
        "kinds": ("autoencoder",),
        "code": 6,
        "epochs": 40,
        "reached": 0.89,
        "raw": True,
    },
    "mnist": {
        "task": "classes",
        "outputs": 10,
        "kinds": ("mlp", "cnn"),
        "epochs": 5,
        "reached": 0.9,
        "raw": True,
        "scaling": "div255",
        "shape": (28, 28, 1),
        "rows": (3000, 1000),
    },
    "cifar10": {
        "task": "classes",
        "outputs": 10,
        "kinds": ("cnn",),
        "epochs": 10,
        "reached": 0.45,
        "raw": True,
        "scaling": "div255",
        "shape": (32, 32, 3),
        "rows": (4000, 1000),
    },
    "imdb": {
        "task": "binary",
        "outputs": 1,
        "kinds": ("gru", "transformer"),
        "epochs": 8,
        "reached": 0.75,
        "vocabulary": WORDS,
        "scaling": "tokens",
        "rows": (3000, 1000),
    },
    "reuters": {
        "task": "classes",
        "outputs": 46,
        "kinds": ("gru", "transformer"),
        "epochs": 10,
        "reached": 0.65,
        "vocabulary": WORDS,
        "scaling": "tokens",
        "rows": (4000, 1000),
    },
}
"""Data sets, with properties of their healthy trainings.

* ``reached``: the best test score of simple models of scikit-learn, rounded down: logistic (ridge) regression, a
  support vector machine (C = 10; 1 for values) and gradient boosting; on the counts of words and pairs of words for
  tokens; principal components, as many as the code has numbers, where the targets are the inputs. ``wine`` has 53
  test rows: one standard error (0.02) less. Those of ``cifar10``, ``imdb`` and ``reuters`` are assumed.
* ``easy``: few batches and well separated classes, which a network learns in any order of rows.
* ``raw``: unscaled inputs are a fault. ``rows``: numbers of training and test rows read from files.
* ``activations``, ``widths``, ``batches``, ``momentum_rate``: noisy data need fewer units, smaller weights, larger
  batches or a lower rate of SGD with momentum than the others, images a lower rate.
"""


def pick(draw: np.random.Generator, *choices: Any) -> Any:
    """Return one of the choices."""
    return choices[int(draw.integers(len(choices)))]


def healthy(data: str, kind: str, draw: np.random.Generator, optimizer: str = "") -> Row:
    """Return a working training, as a line of a case file.

    Args:
        data: One of `DATA`.
        kind: Kind of network, one of the data set's.
        draw: Draws sizes, activation, initializer and optimizer.
        optimizer: ``momentum``, ``plain`` (SGD with it or without) or ``adamw``, for kinds that work with any
            optimizer.
    """
    spec = DATA[data]
    activation, init = pick(draw, *spec.get("activations", ACTIVATIONS))
    width = int(pick(draw, *spec.get("widths", (32, 64))))
    hidden = _hidden(kind, spec, {"activation": activation, "init": init}, width, draw)
    head, loss, layout = {
        "binary": ("sigmoid", "bce", "binary"),
        "classes": ("softmax", "scce", "index"),
        "inputs": (None, "mse", "values"),
        "value": (None, "mse", "float" if spec["outputs"] == 1 else "values"),
    }[spec["task"]]
    name, rate = pick(draw, ("adam", 0.003), ("rmsprop", 0.002), ("sgd", spec.get("momentum_rate", 0.05)))
    chosen = {"name": name, "lr": rate, **({"momentum": 0.9} if name == "sgd" else {})}
    if kind in ("lstm", "gru"):
        chosen = {"name": "adam", "lr": 0.01}
    elif kind == "transformer":
        chosen = pick(draw, {"name": "adam", "lr": 0.003}, ADAMW)
    elif kind == "autoencoder":
        chosen = {"name": "adam", "lr": 0.003}
    elif optimizer == "adamw":
        chosen = ADAMW
    elif optimizer:
        rate, momentum = (0.05, 0.0) if optimizer == "plain" else (spec.get("momentum_rate", 0.05), 0.9)
        chosen = {"name": "sgd", "lr": rate, "momentum": momentum}
    values = spec["task"] in ("value", "inputs")
    return {
        "layers": [*hidden, {"type": "dense", "units": spec["outputs"], "activation": head}],
        "loss": loss,
        "optimizer": dict(chosen),
        "batch_size": int(pick(draw, *spec.get("batches", (16, 32)))),
        "epochs": spec["epochs"],
        "dataset": {
            "generator": spec.get("generator", data),
            "scaling": spec.get("scaling", "raw" if data in ("digit_images", "waves") else "standard"),
            "target_scaling": "standard" if spec["task"] == "value" else "raw",
            "label_encoding": layout,
            **({"targets": "inputs"} if spec["task"] == "inputs" else {}),
            **({"train_rows": spec["rows"][0], "test_rows": spec["rows"][1]} if "rows" in spec else {}),
            **({"shape": spec["shape"]} if "shape" in spec and kind == "cnn" else {}),
        },
        "default_init": "glorot_uniform",
        "metric": "r2" if values else "accuracy",
    }


def _hidden(kind: str, spec: Row, common: Row, width: int, draw: np.random.Generator) -> list[Row]:
    """Return the layers before the last; ``common``: activation and initializer."""
    dense = {"type": "dense", **common}
    if kind == "mlp":
        return [{**dense, "units": width} for _ in range(int(pick(draw, 2, 3)))]
    if kind == "norm":
        block = [{"type": "dense", "units": width, "init": common["init"]}, {"type": "batchnorm"}]
        block += [{"type": "activation", "fn": common["activation"]}, {"type": "dropout", "rate": 0.2}]
        return [{"type": "batchnorm"}, *block, *block]
    if kind == "lstm":
        return [{"type": "lstm", "units": int(pick(draw, 16, 24))}]
    if kind == "autoencoder":
        return [{**dense, "units": width}, {"type": "dense", "units": spec["code"]}, {**dense, "units": width}]
    if kind in ("gru", "transformer"):
        return _of_sequences(kind, spec, draw)
    conv = "conv1d" if kind == "cnn1d" else "conv2d"
    each = {"type": conv, "kernel": 3, "padding": "same", **common}
    pool = {"type": "maxpool" + conv[-2:], "size": 2}
    if kind == "cnn_norm":
        plain = {key: value for key, value in each.items() if key != "activation"}
        rest = [{"type": "batchnorm"}, {"type": "activation", "fn": common["activation"]}, pool]
        layers = [{**plain, "filters": 8}, *rest, {**plain, "filters": 16}, *rest, {"type": "flatten"}]
        return [*layers, {"type": "dropout", "rate": 0.2}]
    layers = [{**each, "filters": 8}, pool, {**each, "filters": 16}, pool, {"type": "flatten"}]
    return [*layers, {**dense, "units": 32}]


def _of_sequences(kind: str, spec: Row, draw: np.random.Generator) -> list[Row]:
    units = int(pick(draw, 16, 24))
    vocabulary = spec.get("vocabulary")
    embedding = [{"type": "embedding", "vocabulary": vocabulary, "units": units}] if vocabulary else []
    if kind == "gru":
        return [*embedding, {"type": "gru", "units": units}]
    attention = [{"type": "layernorm"}, {"type": "attention", "heads": int(pick(draw, 2, 4))}]
    mlp = [{"type": "layernorm"}, {"type": "dense", "units": 2 * units, "activation": "gelu"}]
    mlp += [{"type": "dense", "units": units}]
    block = [{"type": "residual", "layers": attention}, {"type": "residual", "layers": mlp}]
    return [*embedding, {"type": "position"}, *block * int(pick(draw, 1, 2)), {"type": "layernorm"}, {"type": "mean"}]
