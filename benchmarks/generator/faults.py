"""Faults of the model and its optimization, as changes of a working training. See also `faults_data`.

Each function takes a training (a line of a case file), the properties of its data (`recipes.DATA`) and a random
generator that draws the strength; it returns the change, or None where the fault is impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.generator.recipes import Row, pick

__all__ = ["MODEL_FAULTS", "Fault", "Inject", "head"]

Inject = Callable[[Row, Row, np.random.Generator], Row | None]


class Fault(NamedTuple):
    """One kind of fault.

    Attributes:
        description: A key of `benchmarks.cases.problems.FAULT_PROBLEMS`.
        inject: Injects it into a training.
        parts: Parts that it changes; faults that share a part can't be combined.
        frameworks: Frameworks in which it can exist.
        optimizer: Optimizer of the healthy training (see `recipes.healthy`) if the fault needs it to show; the fix
            then keeps it.
    """

    description: str
    inject: Inject
    parts: tuple[str, ...]
    frameworks: tuple[str, ...] = ("pytorch", "keras3")
    optimizer: str = ""


def _layers(row: Row, change: Callable[[int, Row], Row]) -> Row | None:
    """Change each hidden layer with an activation, by its index and settings; None if there are none."""
    weighted = [i for i, layer in enumerate(row["layers"][:-1]) if "activation" in layer]
    layers = [change(weighted.index(i), layer) if i in weighted else layer for i, layer in enumerate(row["layers"])]
    return {"layers": layers} if weighted else None


def head(row: Row, **settings: Any) -> Row:
    """Return the layers with changed settings of the last one."""
    return {"layers": [*row["layers"][:-1], {**row["layers"][-1], **settings}]}


def _has(row: Row, *kinds: str) -> bool:
    return any(layer["type"] in kinds for layer in row["layers"])


def _rate(row: Row, factor: float) -> Row:
    return {"optimizer": {**row["optimizer"], "lr": row["optimizer"]["lr"] * factor}}


def _rate_too_high(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _rate(row, float(pick(draw, 30, 100, 300)))


def _rate_too_low(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _rate(row, float(pick(draw, 1e-2, 1e-3, 1e-4)))


def _sgd(row: Row, **settings: Any) -> Row:
    """Change settings of SGD with momentum; recurrent networks, transformers and autoencoders switch to it first."""
    optimizer = row["optimizer"]
    sgd = optimizer if optimizer["name"] == "sgd" else {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    return {"optimizer": {**sgd, **settings}}


def _momentum_too_high(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _sgd(row, momentum=float(pick(draw, 0.999, 0.9995)))


def _clipped_away(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _sgd(row, clip_norm=float(pick(draw, 1e-3, 1e-4)))


def _decay_too_strong(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": float(pick(draw, 10, 20, 40))}}


def _summed_loss(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {**_sgd(row), "loss": {"bce": "bce_sum", "mse": "mse_sum", "scce": "scce_sum"}[row["loss"]]}


def _single_rows(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    if _has(row, "batchnorm"):  # PyTorch refuses
        return None
    return {"batch_size": 1, "optimizer": {"name": "sgd", "lr": float(pick(draw, 0.05, 0.1)), "momentum": 0.9}}


def _one_batch(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"batch_size": 4096, "optimizer": {"name": "sgd", "lr": float(pick(draw, 0.01, 0.03)), "momentum": 0.0}}


def _few_epochs(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"epochs": int(pick(draw, 1, 2)), **_rate(row, 0.1)}


def _init(to: str) -> Inject:
    def inject(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
        return _layers(row, lambda i, layer: {**layer, "init": to})

    return inject


def _dead_units(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    bias, where = float(pick(draw, -10, -30)), int(draw.integers(2))
    return _layers(
        row, lambda i, layer: {**layer, "activation": "relu", **({"bias_const": bias} if i == where else {})}
    )


def _deep_sigmoid(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    if row["layers"][0]["type"] != "dense":
        return None
    hidden = {"type": "dense", "units": row["layers"][0]["units"], "activation": "sigmoid"}
    return {"layers": [hidden] * int(pick(draw, 6, 8, 10)) + row["layers"][-1:]}


def _bottleneck(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return (
        _layers(row, lambda i, layer: {**layer, "units": 1} if "units" in layer else layer)
        if row["layers"][0]["type"] == "dense"
        else None
    )


def _heavy_dropout(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    layer = {"type": "dropout", "rate": float(pick(draw, 0.9, 0.95))}
    others = [other for other in row["layers"] if other["type"] != "dropout"]
    wide = [i for i, other in enumerate(others[:-1]) if "units" in other or other["type"] in ("flatten", "mean")]
    layers: list[Row] = []
    for i, other in enumerate(others):
        layers += [other, layer] if i in wide and other["type"] not in ("embedding",) else [other]
    return {"layers": layers}


def _doubled_softmax(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    few = spec["outputs"] < 4  # so few classes are separated in spite of the fault
    return {"loss": "ce_logits"} if spec["task"] == "classes" and not few else None


def _relu_output(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    loss = "bce_clipped" if row["loss"] == "bce" else row["loss"]  # torch.nn.BCELoss refuses probabilities above 1
    return {**head(row, activation="relu"), "loss": loss}


def _one_unit_softmax(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return head(row, activation="softmax") if spec["outputs"] == 1 else None


def _sigmoid_for_values(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return head(row, activation="sigmoid") if spec["task"] in ("value", "inputs") else None


def _mse_for_labels(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"loss": "mse"} if spec["task"] == "binary" else None


def _one_unit_cce(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"loss": "cce"} if spec["task"] == "binary" else None  # a single normalised probability is always 1


def _log_of_zero(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"loss": "log_squares"} if spec["task"] in ("value", "inputs") else None


def _loud_attention(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    gain = float(pick(draw, 20, 30))  # as a standard normal in layers of 400 and 900 units

    def louder(layers: list[Row]) -> list[Row]:
        return [
            {**layer, "gain": gain}
            if layer["type"] == "attention"
            else ({**layer, "layers": louder(layer["layers"])} if "layers" in layer else layer)
            for layer in layers
        ]

    return {"layers": louder(row["layers"])} if _has(row, "residual") else None


MODEL_FAULTS: Mapping[str, Fault] = {
    "bottleneck": Fault("too few units (1-unit bottleneck)", _bottleneck, ("hidden",)),
    "clipped_away": Fault("gradient clipping far too small", _clipped_away, ("rate",), optimizer="momentum"),
    "dead_units": Fault("dead activation", _dead_units, ("hidden", "init")),
    "decay_too_strong": Fault("weight decay too strong", _decay_too_strong, ("rate",), optimizer="adamw"),
    "deep_sigmoid": Fault("wrong hidden activation", _deep_sigmoid, ("hidden", "init")),
    "doubled_softmax": Fault("doubled softmax", _doubled_softmax, ("output", "loss", "rate"), optimizer="plain"),
    "few_epochs": Fault("too few epochs", _few_epochs, ("length", "rate")),
    "heavy_dropout": Fault("dropout too high", _heavy_dropout, ("dropout",)),
    "log_of_zero": Fault("log of zero", _log_of_zero, ("loss", "output")),
    "loud_attention": Fault("attention weights too large", _loud_attention, ("init",)),
    "momentum_too_high": Fault("momentum too high", _momentum_too_high, ("rate",), optimizer="momentum"),
    "mse_for_labels": Fault("wrong loss", _mse_for_labels, ("loss",)),
    "one_batch": Fault("batch too large", _one_batch, ("rate", "batch")),
    "one_unit_cce": Fault("wrong loss", _one_unit_cce, ("loss", "output")),
    "one_unit_softmax": Fault("wrong output activation", _one_unit_softmax, ("output",)),
    "ones_init": Fault("bad initialisation", _init("ones"), ("init",)),
    "rate_too_high": Fault("lr too high", _rate_too_high, ("rate",)),
    "rate_too_low": Fault("lr too low", _rate_too_low, ("rate",)),
    "relu_output": Fault("wrong output activation", _relu_output, ("output", "loss")),
    "sigmoid_for_values": Fault("targets out of output range", _sigmoid_for_values, ("output",)),
    "single_rows": Fault("batch too small", _single_rows, ("rate", "batch")),
    "summed_loss": Fault("summed loss at a rate for means", _summed_loss, ("rate", "loss"), optimizer="momentum"),
    "zero_init": Fault("bad initialisation", _init("zeros"), ("init",)),
}
"""Faults by name."""
