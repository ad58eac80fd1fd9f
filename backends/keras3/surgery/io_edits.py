"""Edits at the input and output of a model: output activation, input scaling, input noise, the order of tokens.

Each function takes the editor, the edit and whether to apply it; if not, it only raises the errors of applying it.
"""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import ColumnScaling
from autotrainer.backends.keras3.layers.leading_padding import LeadingPadding
from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.backends.keras3.model.layer_graph import is_activation
from autotrainer.backends.keras3.model.layer_kinds import activation_name, kind_of
from autotrainer.backends.keras3.surgery.editor import Editor, LayerChanges
from autotrainer.backends.keras3.surgery.single_layer import (
    activation_of,
    input_noise,
    make_activation,
    set_activation,
)
from autotrainer.edits import AddInputNoise, Edit, LeadPadding, ScaleInputs, SetOutputActivation
from autotrainer.errors import ConfigError
from autotrainer.training.data_edits import check_fitted

__all__ = ["add_input_noise", "lead_padding", "scale_inputs", "set_output_activation"]

_DIVISORS = (1e-6, 1e18)
"""Standard deviations by which `keras.layers.Normalization` divides exactly: above its epsilon of 1e-7, and with a
square that single precision holds."""


def set_output_activation(editor: Editor, edit: SetOutputActivation, apply: bool) -> Edit:
    """Replace the activation between the last weights and the output."""
    if not has_graph(editor.model):
        raise ConfigError(f"{type(editor.model).__name__}.call() is code: its output activation can't be replaced")
    if len(keras.tree.flatten(editor.model.outputs)) != 1:
        raise ConfigError("the model has several outputs")
    chain = editor.graph.output_chain()
    separate = [layer for layer in chain if is_activation(layer)]
    last = chain[-1] if chain else None
    inner = last.layer if isinstance(last, keras.layers.TimeDistributed) else last
    fused = inner if kind_of(inner) in ("dense", "conv") and activation_of(inner) is not None else None
    watched = None if inner is None else editor.graph.find(inner)
    is_protected = watched is not None and not editor.may_change(watched)
    changes, to = LayerChanges(), edit.to
    for layer in separate:
        changes.replaced[id(layer)] = make_activation(to, layer.name)
        to = "linear"
    if fused is not None and not (is_protected and activation_name(activation_of(fused)) == to):
        if is_protected:
            raise ConfigError(f"the output layer {watched.info.name if watched else ''} is frozen or kept")
        if to == "thresholded_relu":
            changes.after[id(last)] = [make_activation(to, editor.new_name("output_activation"))]
            to = "linear"
        if apply:
            set_activation(fused, to)
    elif fused is None and not separate:
        if to == "linear" or last is None:
            raise ConfigError("the output has no activation that could be removed")
        changes.after[id(chain[0])] = [make_activation(to, editor.new_name("output_activation"))]
    if apply and changes:
        editor.restructure(changes)
    return edit


def scale_inputs(editor: Editor, edit: ScaleInputs, apply: bool) -> Edit:
    """Standardize an input inside the model."""
    input_index = _float_input(editor)
    if editor.statistics is None:
        check_fitted(edit)
    elif not edit.mean:
        if not apply:
            return edit
        edit = editor.statistics(input_index).scaling
    if apply:
        single = len(edit.mean) == 1 and editor.width(input_index) != 1
        editor.scaling = editor.new_name("input_scaling")
        if edit.by_column or not _is_plain(edit):
            columns = (edit.log_center, edit.log_scale, edit.dropped, edit.missing)
            scaling = ColumnScaling(edit.mean, edit.std, *columns, name=editor.scaling)
        else:
            scaling = keras.layers.Normalization(
                None if single else -1,
                edit.mean[0] if single else list(edit.mean),
                edit.std[0] ** 2 if single else [std**2 for std in edit.std],
                name=editor.scaling,
            )
        editor.insert_before_input([scaling], input_index, None if single else len(edit.mean))
    return edit


def _is_plain(edit: ScaleInputs) -> bool:
    """Return whether `keras.layers.Normalization`, which takes variances, divides by the standard deviations."""
    least, most = _DIVISORS
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    return not half and all(least <= std <= most for std in edit.std)


def add_input_noise(editor: Editor, edit: AddInputNoise, apply: bool) -> Edit:
    """Add noise to an input while training."""
    input_index = _float_input(editor)
    scaled = editor.scaling is not None
    spread = 1.0 if scaled or editor.statistics is None or not apply else editor.statistics(input_index).spread
    if apply:
        layers = input_noise(edit.std, spread, editor.new_name)
        if scaled:
            editor.restructure(LayerChanges(after={id(editor.model.get_layer(editor.scaling)): layers}))
        else:
            editor.insert_before_input(layers, input_index)
    return edit


def lead_padding(editor: Editor, edit: LeadPadding, apply: bool) -> Edit:
    """Move the padding of token sequences to their start."""
    editor.require_graph("tokens can't be brought into another order")
    tensors = keras.tree.flatten(editor.model.inputs)
    if len(tensors) != 1 or len(tensors[0].shape) != 2:
        raise ConfigError("the input is not a single array of tokens")
    consumers = editor.graph.consumers(tensors[0]._keras_history.operation)
    if not any(kind_of(_first_layer(layer)) == "embedding" for layer in consumers):
        raise ConfigError("no embedding reads the input")
    if apply:
        check_fitted(edit)
        editor.insert_before_input([LeadingPadding(edit.token or 0, name=editor.new_name("leading_padding"))], 0)
    return edit


def _float_input(editor: Editor) -> int:
    """Return the index of the first input with floating values.

    Raises:
        ConfigError: If there is none, or nothing can be inserted in front of the model.
    """
    model = editor.model
    if not has_graph(model):
        if type(model).train_step is not keras.Model.train_step:
            raise ConfigError(f"{type(model).__name__} overrides train_step: nothing can be inserted in front of it")
        if editor.shapes is not None and len(editor.shapes) != 1:
            raise ConfigError(f"{type(model).__name__} takes several inputs: nothing can be inserted in front of it")
        if editor.graph.layers and editor.graph.layers[0].info.kind == "embedding":
            raise ConfigError("the input holds indices for an embedding")
        return 0
    for input_index, tensor in enumerate(keras.tree.flatten(model.inputs)):
        consumers = editor.graph.consumers(tensor._keras_history.operation)
        indices = any(kind_of(_first_layer(layer)) == "embedding" for layer in consumers)
        if "float" in str(tensor.dtype) and not indices:
            return input_index
    raise ConfigError("no input holds floating-point values: integers and indices are not scaled")


def _first_layer(layer: Any) -> Any:
    while isinstance(layer, keras.Sequential) and layer.layers:
        layer = layer.layers[0]
    return layer
