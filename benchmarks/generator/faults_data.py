"""Faults of the data and of the training loop, as changes of a working training; see `faults`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.generator.faults import Fault, Inject, head
from benchmarks.generator.recipes import Row, pick

__all__ = ["DATA_FAULTS", "LOOP_FAULTS"]

_TORCH = ("pytorch",)


def _data(row: Row, **settings: Any) -> Row:
    return {"dataset": {**row["dataset"], **settings}}


def _raw_inputs(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    normed = row["layers"][0]["type"] == "batchnorm"  # it scales them
    return _data(row, scaling="raw") if spec.get("raw") and not normed else None


def _raw_targets(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _data(row, target_scaling="raw") if spec["task"] == "value" and spec["outputs"] == 1 else None


def _signed_labels(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    """On logits, where the loss of label -1 is unbounded below; on probabilities, clipping would hide the fault."""
    if spec["task"] != "binary":
        return None
    return {**head(row, activation=None), "loss": "bce_logits", **_data(row, label_encoding="pm1")}


def _labels_from_one(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return {"loss": "bce_clipped", **_data(row, label_encoding="binary_plus1")} if spec["task"] == "binary" else None


def _missing_values(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    if spec.get("scaling") == "tokens":
        return None
    change = _data(row, missing=int(pick(draw, 1, 5, 20)))
    # torch.nn.BCELoss refuses non-finite inputs
    return {**change, "loss": "bce_clipped"} if row["loss"] == "bce" else change


def _rare_class(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    return _data(row, rare=float(pick(draw, 0.01, 0.03))) if spec["task"] in ("binary", "classes") else None


def _sorted_rows(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    if spec["task"] not in ("binary", "classes") or spec.get("easy"):
        return None
    return {"loop": {"shuffle": False}, **_data(row, order="by_label")}


def _flat_targets(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    if spec["outputs"] != 1 or spec["task"] == "classes":
        return None
    return {"loss": {"bce": "bce_clipped"}.get(row["loss"], row["loss"]), **_data(row, label_encoding="float_flat")}


def _loop(name: str, *values: Any) -> Inject:
    def inject(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
        return {"loop": {name: pick(draw, *values)}}

    return inject


def _trains_in_evaluation(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    """A first layer that normalises raw inputs only in training mode."""
    if row["layers"][0]["type"] != "batchnorm" or not spec.get("raw"):
        return None
    return {"loop": {"mode": "eval"}, **_data(row, scaling="raw")}


def _evaluates_in_training(row: Row, spec: Row, draw: np.random.Generator) -> Row | None:
    few = spec["outputs"] < 4  # so few classes are separated in spite of the fault
    if few or not any(layer["type"] == "dropout" for layer in row["layers"]):
        return None
    rate = float(pick(draw, 0.6, 0.7))
    layers = [{**layer, "rate": rate} if layer["type"] == "dropout" else layer for layer in row["layers"]]
    return {"loop": {"evaluation": "train"}, "layers": layers}


DATA_FAULTS: Mapping[str, Fault] = {
    "labels_from_one": Fault("labels 1..2 with cross-entropy", _labels_from_one, ("targets", "loss")),
    "missing_values": Fault("NaN in the data", _missing_values, ("values", "loss")),
    "rare_class": Fault("class imbalance", _rare_class, ("rows",)),
    "raw_inputs": Fault("missing normalisation", _raw_inputs, ("inputs",)),
    "raw_targets": Fault("targets not scaled", _raw_targets, ("targets",)),
    "signed_labels": Fault("labels -1/1 with cross-entropy", _signed_labels, ("targets", "loss", "output")),
    "sorted_rows": Fault("rows not shuffled", _sorted_rows, ("loop", "rows", "rate"), optimizer="momentum"),
}
"""Faults of the data, by name."""

LOOP_FAULTS: Mapping[str, Fault] = {
    "evaluates_in_training": Fault("wrong mode", _evaluates_in_training, ("loop", "dropout"), _TORCH),
    "flat_targets": Fault("labels wrong shape", _flat_targets, ("targets", "loss", "output"), _TORCH),
    "forgotten_parameters": Fault("parameters not optimized", _loop("optimized", "first", "last"), ("loop",), _TORCH),
    "no_zero_grad": Fault("missing zero_grad", _loop("zero_grad", False), ("loop", "rate"), _TORCH, "momentum"),
    "trains_in_evaluation": Fault("wrong mode", _trains_in_evaluation, ("loop", "inputs", "hidden"), _TORCH),
}
"""Faults of a PyTorch loop, by name; they cannot occur in Keras."""
