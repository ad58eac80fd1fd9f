"""The line of the user's files where a layer of a Keras model is made, or its loss is named."""

from __future__ import annotations

from typing import Any

from autotrainer.monitoring.source_lines import (
    ModulePart,
    activation_line,
    constructor_line,
    keyword_line,
    layer_line,
)
from autotrainer.rule import Place

__all__ = ["source_line"]


def source_line(
    model: Any, what: Place, layer: str | None, file: str, *, optimizer: Any = None, activation: str | None = None
) -> str:
    """Return file and line of what a finding points to; empty if unknown.

    Args:
        model: The model.
        what: ``layer``; ``output``; ``loss`` or ``optimizer``: that of ``compile``, or the only one of its class. Other
            places have no line, since Keras takes the steps.
        layer: Name of the layer.
        file: The user's file from which the model is watched.
        optimizer: The optimizer.
        activation: Name of the output activation; None if unknown.
    """
    if what == "layer":
        return "" if layer is None else _layer_line(model, layer, file)
    if what == "output":
        return _output_line(model, layer, file, activation)
    if what not in ("loss", "optimizer") or not file:
        return ""
    made = "" if what == "loss" else constructor_line(file, type(optimizer).__name__)
    return made or keyword_line(file, "compile", what)


def _output_line(model: Any, layer: str | None, file: str, activation: str | None) -> str:
    """Return where the output activation is applied: by a call in the model, or by its last layer."""
    kinds = [type(part) for part in model._flatten_layers()]
    by_call = activation_line(activation, kinds, "call", "") if activation not in (None, "linear") else ""
    return by_call or ("" if layer is None else _layer_line(model, layer, file))


def _layer_line(model: Any, name: str, file: str) -> str:
    import keras

    layers = [
        layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.layers.InputLayer)
    ]
    layer = next((layer for layer in layers if layer.name == name), None)
    if layer is None:
        return ""
    steps: list[ModulePart] = []
    attribute = next((key for key, value in vars(model).items() if value is layer and not key.startswith("_")), None)
    if attribute is not None:
        steps.append((model, attribute, ()))
    elif isinstance(model, keras.Sequential) and layer in model.layers:
        steps.append((model, str(model.layers.index(layer)), [type(part).__name__ for part in model.layers]))
    count = sum(type(other) is type(layer) for other in layers)
    return layer_line(steps, type(layer).__name__, name, count, file)
