"""The edit that raises a Keras model from half to single precision."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.model.structure import has_graph, rebuild
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.edits import Edit, RaisePrecision
from autotrainer.errors import ConfigError

__all__ = ["raise_precision"]

_HALF = ("float16", "bfloat16")


def raise_precision(bench: Editor, edit: RaisePrecision, act: bool) -> Edit:
    """Give all layers a policy of single precision; what they keep in half precision is made anew."""
    layers = [layer for layer in bench.model._flatten_layers() if _is_half(layer)]
    if not layers:
        raise ConfigError("no layer has half precision")
    stored = any(str(v.dtype) in _HALF for v in bench.model.weights)
    if stored:
        bench.need_graph("its weights are kept in half precision")
    if act:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy("float32")
        if has_graph(bench.model):
            bench.model = rebuild(bench.model)
    return edit


def _is_half(layer: Any) -> bool:
    policy = layer.dtype_policy
    return _HALF[0] in (policy.compute_dtype, policy.variable_dtype) or _HALF[1] in (
        policy.compute_dtype,
        policy.variable_dtype,
    )
