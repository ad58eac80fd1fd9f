"""The line of the user's files where a layer of a Keras model is made, or its loss is named."""

from __future__ import annotations

from typing import Any

from autotrainer.monitoring.source_lines import ModulePart, keyword_line, layer_line
from autotrainer.rule import Place

__all__ = ["source_line"]


def source_line(model: Any, what: Place, layer: str | None, file: str) -> str:
    """Return file and line of what a finding points to; empty if unknown.

    Args:
        model: The model.
        what: ``layer``, or ``loss`` for that of ``compile``; other places have no line, since Keras takes the steps.
        layer: Name of the layer.
        file: The user's file from which the model is watched.
    """
    if what == "layer":
        return "" if layer is None else _layer_line(model, layer, file)
    return keyword_line(file, "compile", "loss") if what == "loss" and file else ""


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
