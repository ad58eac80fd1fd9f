"""The edit that raises a Keras model from half to single precision."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.backends.keras3.model.rebuilding import rebuild
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.edits import Edit, RaisePrecision
from autotrainer.errors import ConfigError

__all__ = ["raise_precision"]

_HALF = ("float16", "bfloat16")


def raise_precision(editor: Editor, edit: RaisePrecision, apply: bool) -> Edit:
    """Set all layers to single precision; weights kept in half precision are created again."""
    layers = [layer for layer in editor.model._flatten_layers() if _is_half(layer)]
    if not layers:
        raise ConfigError("no layer has half precision")
    stored = any(str(v.dtype) in _HALF for v in editor.model.weights)
    if stored:
        editor.require_graph("its weights are kept in half precision")
    if apply:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy("float32")
        if has_graph(editor.model):
            editor.model = rebuild(editor.model)
    return edit


def _is_half(layer: Any) -> bool:
    policy = layer.dtype_policy
    return policy.compute_dtype in _HALF or policy.variable_dtype in _HALF
