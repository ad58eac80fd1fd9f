"""Faults that only the families have, and which of the others fit them; see `faults` and `faults_data`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.generator.faults import MODEL_FAULTS, Fault, head
from benchmarks.generator.faults_data import DATA_FAULTS, LOOP_FAULTS
from benchmarks.generator.recipes import Row, pick

__all__ = ["FAMILY_FAULTS", "fits"]

Draw = np.random.Generator

_LABELLED = ("binary", "classes", "labels", "tags", "steps", "onehot", "signed", "value", "counts", "pairs")
_OF_HIDDEN = ("bottleneck", "dead_units", "deep_sigmoid", "forgotten_parameters", "ones_init", "zero_init")
_OF_MANY_ROWS = ("one_batch", "rare_class", "shuffled_labels", "single_rows", "sorted_rows", "trains_in_evaluation")


def _data(row: Row, **settings: object) -> Row:
    return {"dataset": {**row["dataset"], **settings}}


def _each_hidden(row: Row, **settings: object) -> Row | None:
    """Change settings of each hidden layer that has an activation; None if there are none."""
    *layers, last = row["layers"]
    changed = [{**layer, **settings} if layer.get("activation") else layer for layer in layers]
    return {"layers": [*changed, last]} if changed != layers else None


def _shuffled_labels(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _data(row, order="apart") if spec["task"] in _LABELLED else None


def _other_classes(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _data(row, validation="other_classes") if spec["task"] == "classes" and spec["outputs"] > 2 else None


def _softmax_axis(row: Row, spec: Row, draw: Draw) -> Row | None:
    if spec["task"] != "classes" or row["layers"][-1].get("activation") != "softmax":
        return None
    layers = head(row, activation=None)["layers"]
    return {"layers": [*layers, {"type": "activation", "fn": "softmax", "axis": 0}]}


def _linear_hidden(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _each_hidden(row, activation=None)


def _large_init(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _each_hidden(row, init=str(pick(draw, "normal1", "uniform01")))


def _zero_network(row: Row, spec: Row, draw: Draw) -> Row | None:
    return {"default_init": "zeros"}


def _far_column(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _inputs(row, spec, column_factor=float(pick(draw, 1e3, 1e4, 1e5)))


def _shifted_inputs(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _inputs(row, spec, shift=float(pick(draw, 50, 200, 1000)))


def _tiny_inputs(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _inputs(row, spec, factor=float(pick(draw, 1e-3, 1e-4)))


def _inputs(row: Row, spec: Row, **settings: float) -> Row | None:
    fixed = spec.get("scaling") == "tokens" or spec["task"] in ("inputs", "samples")
    normed = row["layers"][0]["type"] == "batchnorm" or any(layer["type"] == "batchnorm" for layer in row["layers"])
    return None if fixed or normed else _data(row, **settings)


def _far_targets(row: Row, spec: Row, draw: Draw) -> Row | None:
    settings = row["dataset"].get("settings", {})
    if spec["task"] != "value" or row["dataset"]["generator"] != "surface":
        return None
    return _data(row, settings={**settings, "scale": float(pick(draw, 300, 3000))}, target_scaling="raw")


def _raw_codes(row: Row, spec: Row, draw: Draw) -> Row | None:
    return _data(row, scaling="raw") if spec.get("form") == "wide" else None


def _byte_targets(row: Row, spec: Row, draw: Draw) -> Row | None:
    return {**_data(row, scaling="raw"), "loss": _clipped(row)} if spec.get("form") == "bytes" else None


def _clipped(row: Row) -> str:
    return "bce_clipped" if row["loss"] == "bce" else str(row["loss"])  # torch.nn.BCELoss refuses targets above 1


def _tanh_values(row: Row, spec: Row, draw: Draw) -> Row | None:
    return head(row, activation="tanh") if spec["task"] == "value" else None


def _frozen_layers(row: Row, spec: Row, draw: Draw) -> Row | None:
    """Nothing but the last layer is trained, or nothing but the first."""
    layers = row["layers"]
    if draw.random() < 0.5:
        return {"layers": [{**layer, "frozen": True} for layer in layers[:-1]] + layers[-1:]} if layers[1:] else None
    return {"layers": layers[:1] + [{**layer, "frozen": True} for layer in layers[1:]]} if layers[2:] else None


def _other_optimizer(row: Row, spec: Row, draw: Draw) -> Row | None:
    return {"loop": {"optimized": "stale"}} if len(row["layers"]) > 1 else None


def _float_classes(row: Row, spec: Row, draw: Draw) -> Row | None:
    if spec["task"] != "classes" or spec["outputs"] < 4 or row["dataset"]["label_encoding"] != "index":
        return None
    return {**head(row, units=1, activation=None), "loss": "mse", **_data(row, label_encoding="index_as_float")}


def _no_positions(row: Row, spec: Row, draw: Draw) -> Row | None:
    layers = [layer for layer in row["layers"] if layer["type"] != "position"]
    return {"layers": layers} if len(layers) < len(row["layers"]) else None


def _lopsided_losses(row: Row, spec: Row, draw: Draw) -> Row | None:
    trunk, first, second = row["layers"]
    if draw.random() < 0.5:
        return {"layers": [trunk, {**first, "weight": float(pick(draw, 1e-4, 1e-5))}, second]}
    return {"layers": [trunk, first, {**second, "weight": float(pick(draw, 1e3, 1e4))}]}


def _strong_divergence(row: Row, spec: Row, draw: Draw) -> Row | None:
    encoder, decoder = row["layers"]
    return {"layers": [encoder, {**decoder, "divergence_weight": float(pick(draw, 30, 100))}]}


FAMILY_FAULTS: Mapping[str, Fault] = {
    "byte_targets": Fault("targets out of output range", _byte_targets, ("inputs", "loss")),
    "far_column": Fault("missing normalisation", _far_column, ("inputs",)),
    "far_targets": Fault("targets not scaled", _far_targets, ("targets",)),
    "float_classes": Fault("wrong output units", _float_classes, ("targets", "loss", "output")),
    "frozen_layers": Fault("parameters frozen", _frozen_layers, ("hidden", "output")),
    "large_init": Fault("bad initialisation", _large_init, ("init", "hidden")),
    "linear_hidden": Fault("no nonlinearity", _linear_hidden, ("hidden",)),
    "lopsided_losses": Fault("loss terms unbalanced", _lopsided_losses, ("loss",), ("pytorch",)),
    "no_positions": Fault("no positions", _no_positions, ("hidden",)),
    "other_classes": Fault("validation of other classes", _other_classes, ("rows",)),
    "other_optimizer": Fault("parameters not optimized", _other_optimizer, ("loop",), ("pytorch",)),
    "raw_codes": Fault("missing normalisation", _raw_codes, ("inputs",)),
    "shifted_inputs": Fault("missing normalisation", _shifted_inputs, ("inputs",)),
    "shuffled_labels": Fault("labels of other rows", _shuffled_labels, ("targets", "rows")),
    "softmax_axis": Fault("softmax over the wrong axis", _softmax_axis, ("output",)),
    "strong_divergence": Fault("posterior collapse", _strong_divergence, ("loss",), ("pytorch",)),
    "tanh_values": Fault("targets out of output range", _tanh_values, ("output",)),
    "tiny_inputs": Fault("missing normalisation", _tiny_inputs, ("inputs",)),
    "zero_network": Fault("bad initialisation", _zero_network, ("init",)),
    **MODEL_FAULTS,
    **DATA_FAULTS,
    **LOOP_FAULTS,
}
"""Faults by name, with those that are not specific to families, in the order in which several are injected."""

_LOSSES: Mapping[str, tuple[str, ...]] = {
    "summed_loss": ("bce", "mse", "scce"),
    "flat_targets": ("bce", "mse", "mae", "huber"),
    "missing_values": ("bce", "bce_logits", "mse", "mae", "huber", "scce", "cce", "ce_logits"),
}
"""Losses with which a fault can exist."""

_TASKS: Mapping[str, tuple[str, ...]] = {
    "relu_output": ("value", "binary", "labels", "steps"),
    "flat_targets": ("value", "binary"),
    "lopsided_losses": ("branches",),
    "one_unit_softmax": ("binary",),
    "strong_divergence": ("variational",),
    "heavy_dropout": ("value", "binary", "labels", "classes", "tags", "steps", "onehot", "signed"),
}
"""Tasks in which a fault of `faults` can exist, where it does not check them itself."""


def fits(fault: str, row: Row, spec: Row) -> bool:
    """Return whether a fault can exist in a training, as far as the fault does not know itself."""
    hidden = any(layer.get("activation") or layer["type"] in ("gru", "lstm") for layer in row["layers"][:-1])
    if (fault in _OF_HIDDEN and not hidden) or (fault in _OF_MANY_ROWS and spec.get("tiny")):
        return False
    if row["layers"][-1]["type"] not in ("dense", "conv2d") and "output" in FAMILY_FAULTS[fault].parts:
        return False
    return row["loss"] in _LOSSES.get(fault, (row["loss"],)) and spec["task"] in _TASKS.get(fault, (spec["task"],))
