"""Edits of the two ends of a model: output activation, scaling of the input, noise on it.

Each is a function of the workbench, the edit and whether to act: without, it only raises what acting would raise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from autotrainer.backends.keras3.model.graph import activates
from autotrainer.backends.keras3.model.kinds import activation_name, kind_of
from autotrainer.backends.keras3.model.structure import has_graph
from autotrainer.backends.keras3.surgery.editor import Changes, Editor
from autotrainer.backends.keras3.surgery.single_layer import (
    input_noise,
    make_activation,
    own_activation,
    set_own_activation,
)
from autotrainer.edits import AddInputNoise, Edit, ScaleInputs, SetOutputActivation
from autotrainer.errors import ConfigError

__all__ = ["add_input_noise", "scale_inputs", "set_output_activation"]


def set_output_activation(bench: Editor, edit: SetOutputActivation, act: bool) -> Edit:
    """Exchange all that the output goes through after its last weights."""
    if not has_graph(bench.model):
        raise ConfigError(f"{type(bench.model).__name__}.call() is code: its output activation can't be exchanged")
    if len(keras.tree.flatten(bench.model.outputs)) != 1:
        raise ConfigError("the model has several outputs")
    chain = bench.graph.output_chain()
    separate = [layer for layer in chain if activates(layer)]
    last = chain[-1] if chain else None
    inner = last.layer if isinstance(last, keras.layers.TimeDistributed) else last
    fused = inner if kind_of(inner) in ("dense", "conv") and own_activation(inner) is not None else None
    row = None if inner is None else bench.graph.part(inner)
    bound = row is not None and not bench.free(row)
    changes, to = Changes(), edit.to
    for layer in separate:
        changes.replaced[id(layer)] = make_activation(to, layer.name)
        to = "linear"
    if fused is not None and not (bound and activation_name(own_activation(fused)) == to):
        if bound:
            raise ConfigError(f"the output layer {row.info.name if row else ''} is frozen or kept")
        if to == "thresholded_relu":
            changes.after[id(last)] = [make_activation(to, bench.new_name("output_activation"))]
            to = "linear"
        if act:
            set_own_activation(fused, to)
    elif fused is None and not separate:
        if to == "linear" or last is None:
            raise ConfigError("the output has no activation that could be removed")
        changes.after[id(chain[0])] = [make_activation(to, bench.new_name("output_activation"))]
    if act and changes:
        bench.restructure(changes)
    return edit


def scale_inputs(bench: Editor, edit: ScaleInputs, act: bool) -> Edit:
    """Standardize an input inside the model."""
    entry = _entry(bench)
    if not edit.mean or not edit.std:
        if bench.statistics is None:
            raise ConfigError("ScaleInputs has no numbers, and there are no data to fit them on")
        if not act:
            return edit
        seen = bench.statistics(entry)
        edit = replace(edit, mean=seen.mean, std=seen.std)
    if act:
        single = len(edit.mean) == 1 and bench.width(entry) != 1
        bench.scaling = bench.new_name("input_scaling")
        scaling = keras.layers.Normalization(
            axis=None if single else -1,
            mean=edit.mean[0] if single else list(edit.mean),
            variance=edit.std[0] ** 2 if single else [s**2 for s in edit.std],
            name=bench.scaling,
        )
        bench.put_in_front([scaling], entry, None if single else len(edit.mean))
    return edit


def add_input_noise(bench: Editor, edit: AddInputNoise, act: bool) -> Edit:
    """Add noise to an input while training."""
    entry = _entry(bench)
    scaled = bench.scaling is not None
    spread = 1.0 if scaled or bench.statistics is None or not act else bench.statistics(entry).spread
    if not 0 < edit.std <= 1:
        raise ConfigError(f"noise of {edit.std} standard deviations is out of (0, 1]")
    if act:
        layers = input_noise(edit.std, spread, bench.new_name)
        if scaled:
            bench.restructure(Changes(after={id(bench.model.get_layer(bench.scaling)): layers}))
        else:
            bench.put_in_front(layers, entry)
    return edit


def _entry(bench: Editor) -> int:
    """Return the position of the first input that holds values rather than indices.

    Raises:
        ConfigError: If there is none, or layers can't be put in front of the model.
    """
    model = bench.model
    if not has_graph(model):
        if type(model).train_step is not keras.Model.train_step:
            raise ConfigError(f"{type(model).__name__} has a train_step of its own: nothing can be put in front of it")
        if bench.shapes is not None and len(bench.shapes) != 1:
            raise ConfigError(f"{type(model).__name__} takes several inputs: nothing can be put in front of its call()")
        if bench.graph.parts and bench.graph.parts[0].info.kind == "embedding":
            raise ConfigError("the input holds indices for an embedding")
        return 0
    for entry, tensor in enumerate(keras.tree.flatten(model.inputs)):
        takers = bench.graph.behind(tensor._keras_history.operation)
        indices = any(kind_of(_first(layer)) == "embedding" for layer in takers)
        if "float" in str(tensor.dtype) and not indices:
            return entry
    raise ConfigError("no input holds values of floating type: integers and indices are not scaled")


def _first(layer: Any) -> Any:
    while isinstance(layer, keras.Sequential) and layer.layers:
        layer = layer.layers[0]
    return layer
