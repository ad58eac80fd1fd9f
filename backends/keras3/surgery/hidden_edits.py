"""Edits of hidden layers: activation, weights, normalization, dropout.

Each is a function of the workbench, the edit and whether to act: without, it only raises what acting would raise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import Residual
from autotrainer.backends.keras3.model.kinds import kind_of
from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.surgery.editor import Changes, Editor
from autotrainer.backends.keras3.surgery.single_layer import (
    draw_weights,
    make_activation,
    normalization_after,
    own_activation,
    set_own_activation,
)
from autotrainer.edits import AddDropout, Edit, InsertNormalization, Reinitialize, SwapActivation, initializer_for
from autotrainer.errors import ConfigError

__all__ = ["add_dropout", "insert_normalization", "reinitialize", "swap_activation"]


def swap_activation(bench: Editor, edit: SwapActivation, act: bool) -> Edit:
    """Exchange the activation of hidden layers."""
    changes, sources = Changes(), list[Part]()
    for carrier, below in carriers(bench, bench.named(edit.layers)):
        if _set_activation(bench, carrier, edit.to, changes, act):
            sources.extend(below)
    if not sources and not changes:
        raise ConfigError(f"none of {', '.join(edit.layers)} has an activation that can be exchanged here")
    if act:
        for part in sources if edit.reinitialize else ():
            draw_weights(part, initializer_for(edit.to))
        bench.restructure(changes)
    return edit


def carriers(bench: Editor, parts: Sequence[Part]) -> Iterator[tuple[Any, list[Part]]]:
    """Yield the layers that apply the hidden activation of these layers, and the layers with weights below."""
    seen: set[int] = set()
    for part in parts:
        if part.info.kind == "activation":
            carrier, below = part.layer, bench.graph.sources(part.layer)
        elif part.activation != "linear" and own_activation(part.layer) is not None:
            carrier, below = part.layer, [part]
        else:
            carrier = bench.graph.following_activation(part)
            below = [] if carrier is None else bench.graph.sources(carrier)
        if carrier is None or id(carrier) in seen:
            continue
        seen.add(id(carrier))
        row = bench.graph.part(carrier)
        if row is None or (row.info.hidden and bench.free(row) and all(bench.free(p) for p in below)):
            yield carrier, below


def _set_activation(bench: Editor, carrier: Any, to: str, changes: Changes, act: bool) -> bool:
    """Exchange the activation that a layer applies; returns False where that can't be done.

    In place where the layer keeps a function; a class of its own, such as `ReLU`, is replaced, for which the
    model must have a graph. `thresholded_relu` exists as a layer only.
    """
    node = bench.graph.node(carrier)
    whole = node is carrier
    if isinstance(node, Residual) and (to == "thresholded_relu" or own_activation(carrier) is None):
        inner = node.layer
        if act and own_activation(inner) is not None:
            set_own_activation(inner, "linear")
        changes.replaced[id(node)] = Residual(inner, make_activation(to, f"{inner.name}_activation"), name=node.name)
        return True
    if own_activation(carrier) is not None:
        if to != "thresholded_relu":
            if act:
                set_own_activation(carrier, to)
            return True
        if node is None or kind_of(carrier) == "recurrent" or not (whole or _wrapped_alone(node)):
            return False
        if kind_of(carrier) != "activation":
            changes.after[id(node)] = [make_activation(to, f"{carrier.name}_activation")]
            if act:
                set_own_activation(carrier, "linear")
            return True
    if whole:
        changes.replaced[id(carrier)] = make_activation(to, carrier.name)
    return whole


def _stands_alone(part: Part, node: Any) -> bool:
    """Say whether what is put behind a node of the graph stands right behind the layer that it is or holds."""
    return node is part.layer or _wrapped_alone(node)


def _wrapped_alone(node: Any) -> bool:
    return isinstance(node, keras.layers.TimeDistributed | keras.layers.Bidirectional)


def reinitialize(bench: Editor, edit: Reinitialize, act: bool) -> Edit:
    """Draw weights anew."""
    found = bench.named(edit.layers)
    below = [q for p in found if p.info.kind == "activation" for q in bench.graph.sources(p.layer)]
    parts = [p for p in (*found, *below) if p.weights and p.info.kind != "norm" and bench.free(p)]
    if not parts:
        raise ConfigError(f"none of {', '.join(edit.layers)} has weights to draw anew")
    for part in parts if act else ():
        draw_weights(part, edit.scheme)
    return edit


def insert_normalization(bench: Editor, edit: InsertNormalization, act: bool) -> Edit:
    """Put a normalization before the activation of hidden layers."""
    bench.need_graph("a normalization can't be inserted")
    found = bench.named(edit.layers)
    below = [q for p in found if p.info.kind == "activation" for q in bench.graph.sources(p.layer)]
    changes, split = Changes(), list[Any]()
    for part in (*found, *below):
        node = bench.graph.node(part.layer)
        if part.info.kind not in ("dense", "conv") or not part.info.hidden or not bench.free(part):
            continue
        if not _stands_alone(part, node):
            continue
        if id(node) in changes.after or any(kind_of(n) == "norm" for n in bench.graph.behind(node)):
            continue
        changes.after[id(node)] = [normalization_after(part.layer, node, edit.kind, bench.new_name)]
        if part.activation != "linear":
            function = own_activation(part.layer)
            name = bench.new_name(f"{part.layer.name}_activation")
            changes.after[id(node)].append(keras.layers.Activation(function, name=name))
            split.append(part.layer)
    if not changes:
        raise ConfigError(
            f"none of {', '.join(edit.layers)} is a hidden dense or convolutional layer of the graph "
            "without normalization"
        )
    if act:
        for layer in split:
            set_own_activation(layer, "linear")
        bench.restructure(changes)
    return edit


def add_dropout(bench: Editor, edit: AddDropout, act: bool) -> Edit:
    """Put dropout after the activation of hidden layers."""
    bench.need_graph("a dropout layer can't be inserted")
    changes = Changes()
    for part in bench.named(edit.layers):
        separate = bench.graph.following_activation(part) if part.activation == "linear" else None
        node = separate if separate is not None else bench.graph.node(part.layer)
        row = bench.graph.part(node)
        hidden = part.info.hidden and (row is None or row.info.hidden)
        if not hidden or (separate is None and not _stands_alone(part, node)):
            continue
        name = bench.new_name(f"{node.name}_dropout")
        changes.after.setdefault(id(node), [keras.layers.Dropout(edit.rate, name=name)])
    if not changes:
        raise ConfigError(
            f"{', '.join(edit.layers)}: dropout belongs after hidden layers of the graph, not after the output or "
            "inside of code"
        )
    if act:
        bench.restructure(changes)
    return edit
