"""Edits of the structure: residual connections, the output layer, attention.

Each function takes the editor, the edit and whether to apply it; if not, it only raises the errors of applying it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import BOUNDED, Residual, bound
from autotrainer.backends.keras3.model.layer_graph import is_activation
from autotrainer.backends.keras3.model.layer_kinds import activation_name, kind_of
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.surgery.editor import Editor, LayerChanges
from autotrainer.backends.keras3.surgery.single_layer import set_activation
from autotrainer.edits import AddResidual, ClipAttention, Edit, ScaleOutputLayer
from autotrainer.errors import ConfigError

__all__ = ["add_residual", "clip_attention", "scale_output_layer"]


def add_residual(editor: Editor, edit: AddResidual, apply: bool) -> Edit:
    """Add residual connections around layers and their activations."""
    editor.require_graph("a residual connection can't be added")
    changes, reasons, applied = LayerChanges(), list[str](), list[str]()
    for watched in editor.named(edit.layers):
        reason = _plan_residual(editor, watched, changes, apply)
        if reason:
            reasons.append(f"`{watched.info.name}` {reason}")
        else:
            applied.append(watched.info.name)
    if not changes:
        raise ConfigError("; ".join(dict.fromkeys(reasons)))
    if apply:
        editor.restructure(changes)
    return replace(edit, layers=tuple(applied))


def _plan_residual(editor: Editor, watched: WatchedLayer, changes: LayerChanges, apply: bool) -> str:
    """Plan a residual connection around one layer; return why there can't be one, or an empty text."""
    layer, graph = watched.layer, editor.graph
    if watched.info.kind not in ("dense", "conv") or not watched.info.hidden:
        return "is not a hidden dense or convolutional layer"
    if graph.node(layer) is not layer:
        return f"is inside {type(graph.node(layer)).__name__}, which is code" if graph.node(layer) else "is not reached"
    if len(graph.producers(layer)) > 1:
        return "is used more than once"
    node = layer._inbound_nodes[0]
    if tuple(node.input_tensors[0].shape) != tuple(node.output_tensors[0].shape):
        return "does not have as many outputs as inputs"
    name = editor.new_name(f"{layer.name}_residual")
    if watched.activation != "linear":
        changes.replaced[id(layer)] = Residual(layer, name=name)
        return ""
    consumers = graph.consumers(layer)
    if len(consumers) != 1 or not is_activation(consumers[0]):
        normalized = consumers and kind_of(consumers[0]) == "norm"
        return "is normalized" if normalized else "is not directly followed by an activation"
    owner = consumers[0]
    watched_owner = graph.find(owner)
    if watched_owner is not None and not editor.may_change(watched_owner):
        return f"goes through {owner.name}, which is protected by keep"
    shared = len(graph.producers(owner)) > 1
    if shared and activation_name(owner) != "relu":
        return f"goes through {owner.name}, which other layers share"
    plain = type(owner) is keras.layers.Activation or not isinstance(owner, keras.layers.Layer)
    if plain or shared:
        if apply:
            set_activation(layer, activation_name(owner) or "linear")
        changes.replaced[id(layer)] = Residual(layer, name=name)
    else:
        changes.replaced[id(layer)] = Residual(layer, owner, name=name)
    if not shared:  # a shared ReLU stays: it has nothing left to cut off
        changes.replaced[id(owner)] = keras.layers.Activation("linear", name=editor.new_name(f"{owner.name}_moved"))
    return ""


def scale_output_layer(editor: Editor, edit: ScaleOutputLayer, apply: bool) -> Edit:
    """Scale down the initial weights of the output layer."""
    layers = editor.named(edit.layers) if edit.layers else [_output_layer(editor)]
    if any(watched.info.kind not in ("dense", "conv") for watched in layers):
        raise ConfigError("the output is not computed by a single dense or convolutional layer")
    for variable in [v for watched in layers for v in watched.weights] if apply else ():
        variable.assign(variable * edit.factor)
    return replace(edit, layers=tuple(watched.info.name for watched in layers))


def _output_layer(editor: Editor) -> WatchedLayer:
    editor.require_graph("the output layer can't be scaled")
    if len(keras.tree.flatten(editor.model.outputs)) != 1:
        raise ConfigError("the model has several outputs")
    chain: Sequence[Any] = editor.graph.output_chain()
    if any(kind_of(layer) == "norm" for layer in chain):
        raise ConfigError("a normalization after the output layer undoes any scale")
    last = chain[-1] if chain else None
    watched = editor.graph.find(last.layer if isinstance(last, keras.layers.TimeDistributed) else last)
    if watched is None or not watched.weights:
        raise ConfigError("the output is not computed by a single dense or convolutional layer")
    return editor.named((watched.info.name,))[0]


def clip_attention(editor: Editor, edit: ClipAttention, apply: bool) -> Edit:
    """Bound the logits of attention layers, in place."""
    attention_layers = [watched for watched in editor.named(edit.layers) if watched.info.kind == "attention"]
    boundable = [watched for watched in attention_layers if type(watched.layer) in BOUNDED]
    if not boundable:
        kinds = ", ".join(sorted({type(watched.layer).__name__ for watched in attention_layers}))
        raise ConfigError(
            f"the logits of {kinds} can't be bounded" if kinds else f"{', '.join(edit.layers)}: no attention layer"
        )
    for watched in boundable if apply else ():
        bound(watched.layer, edit.limit)
    return replace(edit, layers=tuple(watched.info.name for watched in boundable))
