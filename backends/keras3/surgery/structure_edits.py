"""Edits of the structure: widths, ways past layers, the output layer, attention.

Each is a function of the workbench, the edit and whether to act: without, it only raises what acting would raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import BOUNDED, Residual, bound
from autotrainer.backends.keras3.model.graph import activates
from autotrainer.backends.keras3.model.kinds import activation_name, kind_of
from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.surgery.editor import Changes, Editor
from autotrainer.backends.keras3.surgery.single_layer import set_own_activation
from autotrainer.edits import AddResidual, ClipAttention, Edit, ScaleOutputLayer
from autotrainer.errors import ConfigError

__all__ = ["add_residual", "clip_attention", "scale_output_layer"]


def add_residual(bench: Editor, edit: AddResidual, act: bool) -> Edit:
    """Lead the input of layers past them and their activation."""
    bench.need_graph("an input can't be led past a layer")
    changes, reasons, done = Changes(), list[str](), list[str]()
    for part in bench.named(edit.layers):
        reason = _lead_past(bench, part, changes, act)
        if reason:
            reasons.append(f"`{part.info.name}` {reason}")
        else:
            done.append(part.info.name)
    if not changes:
        raise ConfigError("; ".join(dict.fromkeys(reasons)))
    if act:
        bench.restructure(changes)
    return replace(edit, layers=tuple(done))


def _lead_past(bench: Editor, part: Part, changes: Changes, act: bool) -> str:
    """Plan a way past one layer; returns why there can't be one, or an empty text."""
    layer, graph = part.layer, bench.graph
    if part.info.kind not in ("dense", "conv") or not part.info.hidden:
        return "is no hidden dense or convolutional layer"
    if graph.node(layer) is not layer:
        return f"is inside {type(graph.node(layer)).__name__}, which is code" if graph.node(layer) else "is not reached"
    if len(graph.before(layer)) > 1:
        return "is used more than once"
    call = layer._inbound_nodes[0]
    if tuple(call.input_tensors[0].shape) != tuple(call.output_tensors[0].shape):
        return "does not have as many outputs as inputs"
    name = bench.new_name(f"{layer.name}_residual")
    if part.activation != "linear":
        changes.replaced[id(layer)] = Residual(layer, name=name)
        return ""
    behind = graph.behind(layer)
    if len(behind) != 1 or not activates(behind[0]):
        return "is normalized" if behind and kind_of(behind[0]) == "norm" else "has no activation right behind it"
    carrier = behind[0]
    row = graph.part(carrier)
    if row is not None and not bench.free(row):
        return f"goes through {carrier.name}, which is kept"
    shared = len(graph.before(carrier)) > 1
    if shared and activation_name(carrier) != "relu":
        return f"goes through {carrier.name}, which other layers share"
    plain = type(carrier) is keras.layers.Activation or not isinstance(carrier, keras.layers.Layer)
    if plain or shared:
        if act:
            set_own_activation(layer, activation_name(carrier) or "linear")
        changes.replaced[id(layer)] = Residual(layer, name=name)
    else:
        changes.replaced[id(layer)] = Residual(layer, carrier, name=name)
    if not shared:  # there is nothing left that a shared ReLU could cut off
        changes.replaced[id(carrier)] = keras.layers.Activation("linear", name=bench.new_name(f"{carrier.name}_moved"))
    return ""


def scale_output_layer(bench: Editor, edit: ScaleOutputLayer, act: bool) -> Edit:
    """Make the initial weights of the output layer smaller."""
    parts = bench.named(edit.layers) if edit.layers else [_output_part(bench)]
    if any(part.info.kind not in ("dense", "conv") for part in parts):
        raise ConfigError("the output is not made by a dense or convolutional layer alone")
    for variable in [v for part in parts for v in part.weights] if act else ():
        variable.assign(variable * edit.factor)
    return replace(edit, layers=tuple(part.info.name for part in parts))


def _output_part(bench: Editor) -> Part:
    bench.need_graph("the output layer can't be scaled")
    if len(keras.tree.flatten(bench.model.outputs)) != 1:
        raise ConfigError("the model has several outputs")
    chain: Sequence[Any] = bench.graph.output_chain()
    if any(kind_of(layer) == "norm" for layer in chain):
        raise ConfigError("a normalization behind the output layer undoes any scale")
    last = chain[-1] if chain else None
    part = bench.graph.part(last.layer if isinstance(last, keras.layers.TimeDistributed) else last)
    if part is None or not part.weights:
        raise ConfigError("the output is not made by a dense or convolutional layer alone")
    return bench.named((part.info.name,))[0]


def clip_attention(bench: Editor, edit: ClipAttention, act: bool) -> Edit:
    """Bound the logits of attention layers, in place."""
    found = [part for part in bench.named(edit.layers) if part.info.kind == "attention"]
    fit = [part for part in found if type(part.layer) in BOUNDED]
    if not fit:
        kinds = ", ".join(sorted({type(part.layer).__name__ for part in found}))
        raise ConfigError(
            f"the logits of {kinds} can't be bounded" if kinds else f"{', '.join(edit.layers)}: no attention layer"
        )
    for part in fit if act else ():
        bound(part.layer, edit.limit)
    return replace(edit, layers=tuple(part.info.name for part in fit))
