"""Edits of hidden layers: activation, weights, normalization, dropout.

Each function takes the editor, the edit and whether to apply it; if not, it only raises the errors of applying it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import Residual
from autotrainer.backends.keras3.model.layer_kinds import kind_of
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.surgery.editor import Editor, LayerChanges
from autotrainer.backends.keras3.surgery.single_layer import (
    activation_of,
    make_activation,
    normalization_after,
    reinitialize_weights,
    set_activation,
)
from autotrainer.edits import (
    AddActivation,
    AddDropout,
    Edit,
    InsertNormalization,
    Reinitialize,
    SwapActivation,
    ThawLayers,
    initializer_for,
)
from autotrainer.errors import ConfigError

__all__ = ["add_activation", "add_dropout", "insert_normalization", "reinitialize", "swap_activation", "thaw_layers"]


def swap_activation(editor: Editor, edit: SwapActivation, apply: bool) -> Edit:
    """Replace the activation of hidden layers."""
    changes, changed = LayerChanges(), list[WatchedLayer]()
    for owner, sources in hidden_activations(editor, editor.named(edit.layers)):
        if _set_activation(editor, owner, edit.to, changes, apply):
            changed.extend(sources)
    if not changed and not changes:
        raise ConfigError(f"none of {', '.join(edit.layers)} has an activation that can be replaced here")
    if apply:
        for watched in changed if edit.reinitialize else ():
            reinitialize_weights(watched, initializer_for(edit.to))
        editor.restructure(changes)
    return edit


def add_activation(editor: Editor, edit: AddActivation, apply: bool) -> Edit:
    """Give an activation to hidden layers that have none."""
    plain = [
        watched
        for watched in editor.named(edit.layers)
        if watched.info.hidden
        and watched.activation == "linear"
        and kind_of(watched.layer) in ("dense", "conv")
        and activation_of(watched.layer) is not None
        and editor.graph.following_activation(watched) is None
    ]
    if not plain:
        raise ConfigError(f"none of {', '.join(edit.layers)} is a hidden layer without activation")
    changes = LayerChanges()
    for watched in plain:
        _set_activation(editor, watched.layer, edit.to, changes, apply)
    if apply:
        editor.restructure(changes)
    return edit


def thaw_layers(editor: Editor, edit: ThawLayers, apply: bool) -> Edit:
    """Make all layers of a model trainable in which none is, but those that are kept or share weights with these."""
    if editor.model.trainable_variables:
        raise ConfigError("parameters that are frozen beside trainable ones are never changed")
    owners = [watched for watched in editor.graph.layers if watched.layer.weights]
    if edit.layers:
        owners = [watched for watched in owners if watched.info.name in edit.layers]
    kept = {
        id(weight)
        for watched in editor.graph.layers
        if editor.pattern(watched.info.name) is not None
        for weight in watched.layer.weights
    }
    unnamed = [watched for watched in owners if editor.pattern(watched.info.name) is None]
    thawed = [watched for watched in unnamed if not any(id(weight) in kept for weight in watched.layer.weights)]
    if not thawed:
        reason = "keep protects all of these layers, or layers that share their weights"
        raise ConfigError(reason if owners else "the model has no such layers")
    if apply:
        editor.model.trainable = True  # the flag of a model rules those of its layers
        for watched in editor.graph.layers:
            if watched.layer.weights and not any(watched is each for each in thawed):
                watched.layer.trainable = False
    return replace(edit, layers=tuple(watched.info.name for watched in thawed))


def hidden_activations(editor: Editor, layers: Sequence[WatchedLayer]) -> Iterator[tuple[Any, list[WatchedLayer]]]:
    """Yield the layers that apply the hidden activations of these layers, each with the layers that feed it."""
    visited: set[int] = set()
    for watched in layers:
        if watched.info.kind == "activation":
            owner, sources = watched.layer, editor.graph.sources(watched.layer)
        elif watched.activation != "linear" and activation_of(watched.layer) is not None:
            owner, sources = watched.layer, [watched]
        else:
            owner = editor.graph.following_activation(watched)
            sources = [] if owner is None else editor.graph.sources(owner)
        if owner is None or id(owner) in visited:
            continue
        visited.add(id(owner))
        activation = editor.graph.find(owner)
        if activation is not None and not (activation.info.hidden and editor.may_change(activation)):
            continue
        if activation is None or all(editor.may_change(p) for p in sources):
            yield owner, sources


def _set_activation(editor: Editor, owner: Any, to: str, changes: LayerChanges, apply: bool) -> bool:
    """Replace the activation that a layer applies; return whether that is possible.

    A layer with an activation function is changed in place; an activation class such as `ReLU` is replaced, for which
    the model must have a graph. `thresholded_relu` exists only as a layer.
    """
    node = editor.graph.node(owner)
    whole = node is owner
    if isinstance(node, Residual) and (to == "thresholded_relu" or activation_of(owner) is None):
        inner = node.layer
        if apply and activation_of(inner) is not None:
            set_activation(inner, "linear")
        changes.replaced[id(node)] = Residual(inner, make_activation(to, f"{inner.name}_activation"), name=node.name)
        return True
    if activation_of(owner) is not None:
        if to != "thresholded_relu":
            if apply:
                set_activation(owner, to)
            return True
        if node is None or kind_of(owner) == "recurrent" or not (whole or _wraps_one_layer(node)):
            return False
        if kind_of(owner) != "activation":
            changes.after[id(node)] = [make_activation(to, f"{owner.name}_activation")]
            if apply:
                set_activation(owner, "linear")
            return True
    if whole:
        changes.replaced[id(owner)] = make_activation(to, owner.name)
    return whole


def _is_or_wraps(watched: WatchedLayer, node: Any) -> bool:
    """Return whether a layer inserted after a node comes directly after the layer that the node is or wraps."""
    return node is watched.layer or _wraps_one_layer(node)


def _wraps_one_layer(node: Any) -> bool:
    return isinstance(node, keras.layers.TimeDistributed | keras.layers.Bidirectional)


def reinitialize(editor: Editor, edit: Reinitialize, apply: bool) -> Edit:
    """Reinitialize weights."""
    named = editor.named(edit.layers)
    sources = [q for p in named if p.info.kind == "activation" for q in editor.graph.sources(p.layer)]
    layers = [p for p in (*named, *sources) if p.weights and p.info.kind != "norm" and editor.may_change(p)]
    if not layers:
        raise ConfigError(f"none of {', '.join(edit.layers)} has weights to reinitialize")
    for watched in layers if apply else ():
        reinitialize_weights(watched, edit.scheme)
    return edit


def insert_normalization(editor: Editor, edit: InsertNormalization, apply: bool) -> Edit:
    """Insert a normalization before the activation of hidden layers."""
    editor.require_graph("a normalization can't be inserted")
    named = editor.named(edit.layers)
    sources = [q for p in named if p.info.kind == "activation" for q in editor.graph.sources(p.layer)]
    changes, with_activation = LayerChanges(), list[Any]()
    for watched in (*named, *sources):
        node = editor.graph.node(watched.layer)
        if watched.info.kind not in ("dense", "conv") or not watched.info.hidden or not editor.may_change(watched):
            continue
        if not _is_or_wraps(watched, node):
            continue
        if id(node) in changes.after or any(kind_of(n) == "norm" for n in editor.graph.consumers(node)):
            continue
        changes.after[id(node)] = [normalization_after(watched.layer, node, edit.kind, editor.new_name)]
        if watched.activation != "linear":
            function = activation_of(watched.layer)
            name = editor.new_name(f"{watched.layer.name}_activation")
            changes.after[id(node)].append(keras.layers.Activation(function, name=name))
            with_activation.append(watched.layer)
    if not changes:
        raise ConfigError(
            f"none of {', '.join(edit.layers)} is a hidden dense or convolutional layer of the graph "
            "without normalization"
        )
    if apply:
        for layer in with_activation:
            set_activation(layer, "linear")
        editor.restructure(changes)
    return edit


def add_dropout(editor: Editor, edit: AddDropout, apply: bool) -> Edit:
    """Insert dropout after the activation of hidden layers."""
    editor.require_graph("a dropout layer can't be inserted")
    changes = LayerChanges()
    for watched in editor.named(edit.layers):
        separate = editor.graph.following_activation(watched) if watched.activation == "linear" else None
        node = separate if separate is not None else editor.graph.node(watched.layer)
        after = editor.graph.find(node)
        hidden = watched.info.hidden and (after is None or after.info.hidden)
        if not hidden or (separate is None and not _is_or_wraps(watched, node)):
            continue
        name = editor.new_name(f"{node.name}_dropout")
        changes.after.setdefault(id(node), [keras.layers.Dropout(edit.rate, name=name)])
    if not changes:
        raise ConfigError(
            f"{', '.join(edit.layers)}: dropout can only follow hidden layers of the graph, not the output or "
            "layers inside code"
        )
    if apply:
        editor.restructure(changes)
    return edit
