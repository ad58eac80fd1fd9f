"""Changing the widths of layers of a model with a graph: the layers after them are rebuilt for their new inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.model.copying import copy_layer
from autotrainer.backends.keras3.model.rebuilding import rebuild
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer, watched_layers
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.single_layer import reinitialize_weights
from autotrainer.edits import Edit, ResizeLayers, ResizeOutputLayer, initializer_for
from autotrainer.errors import ConfigError, InputError

__all__ = ["resize_layers", "resize_output_layer"]


def resize_layers(editor: Editor, edit: ResizeLayers, apply: bool) -> Edit:
    """Change the numbers of units of hidden layers, of all that allow it."""
    editor.require_graph("widths can't be changed")
    reasons, widths = list[str](), dict[str, int]()
    for name, units in zip(edit.layers, edit.units, strict=True):
        try:
            layers = editor.named((name,))
        except ConfigError as error:
            reasons.append(str(error))
            continue
        for watched in layers:
            reason = _refusal(editor, watched)
            if reason:
                reasons.append(f"`{watched.info.name}` {reason}")
            else:
                widths[watched.info.name] = units
    model, reason = _resized(editor, widths) if widths else (None, "")
    if model is None:  # not all at once: change one after the other, as far as possible
        accepted: dict[str, int] = {}
        for name, units in widths.items():
            resized, reason = _resized(editor, {**accepted, name: units})
            if resized is not None:
                model, accepted = resized, {**accepted, name: units}
            else:
                reasons.append(f"`{name}`: {reason}")
        widths = accepted
    if model is None:
        raise ConfigError("; ".join(dict.fromkeys(reasons)))
    if apply:
        _reinitialize_changed(editor, model)
        editor.model = model
    return ResizeLayers(tuple(widths), tuple(widths.values()))


def resize_output_layer(editor: Editor, edit: ResizeOutputLayer, apply: bool) -> Edit:
    """Change the number of units of the layer that makes the output."""
    watched = _output_layer(editor, edit)
    name = watched.info.name
    if watched.info.units == edit.units:
        raise ConfigError(f"the output layer `{name}` has {edit.units} units already")
    try:
        model = rebuild(editor.model, replaced=_replaced(editor, {name: edit.units}))
    except (ValueError, InputError) as error:  # Keras: shapes do not match
        raise ConfigError(f"the width of `{name}` is fixed: {str(error).strip().splitlines()[0]}") from error
    shape = _shapes(editor.model.outputs)[0]
    if _shapes(model.outputs) != [(*shape[:-1], edit.units)]:
        raise ConfigError(f"the last axis of the output is not made by `{name}` alone")
    changed = _changed(editor, model)
    protected = next((old.info.name for old, _ in changed if not editor.may_change(old)), None)
    if protected is not None:
        raise ConfigError(f"{protected} would have to change, and is frozen or protected by keep")
    if apply:
        for old, new in changed:
            if old is watched:
                _keep_units(old, new)
        editor.model = model
    return replace(edit, layers=(name,), followers=(), inputs=())


def _output_layer(editor: Editor, edit: ResizeOutputLayer) -> WatchedLayer:
    editor.require_graph("the width of the output can't be changed")
    if len(keras.tree.flatten(editor.model.outputs)) != 1:
        raise ConfigError("the model has several outputs")
    chain = editor.graph.output_chain()
    last = chain[-1] if chain else None
    inner = last.layer if isinstance(last, keras.layers.TimeDistributed) else last
    watched = None if inner is None else editor.graph.find(inner)
    fixed = watched is None or _width_name(watched.layer) is None or getattr(watched.layer, "groups", 1) != 1
    if watched is None or fixed or watched.info.kind not in ("dense", "conv") or watched.info.hidden:
        raise ConfigError("the output is not made by a single dense or convolutional layer")
    if len(editor.graph.producers(last)) > 1:
        raise ConfigError(f"`{watched.info.name}` is used more than once")
    if edit.layers and not any(layer is watched for layer in editor.named(edit.layers)):
        raise ConfigError(f"`{edit.layers[0]}` does not make the output")
    return editor.named((watched.info.name,))[0]


def _keep_units(old: WatchedLayer, new: WatchedLayer) -> None:
    """Copy the weights of the units that remain, if there are several before and after."""
    for before, after in zip(old.weights, new.weights, strict=True):
        values, kept = np.array(keras.ops.convert_to_numpy(after)), np.array(keras.ops.convert_to_numpy(before))
        axis = next((axis for axis in range(values.ndim) if values.shape[axis] != kept.shape[axis]), 0)
        units = min(values.shape[axis], kept.shape[axis])
        if units > 1:
            part = (slice(None),) * axis + (slice(units),)
            values[part] = kept[part]
            after.assign(values)


def _refusal(editor: Editor, watched: WatchedLayer) -> str:
    node = editor.graph.node(watched.layer)
    if watched.info.kind not in ("dense", "conv", "recurrent") or not watched.info.hidden:
        return "is not a hidden dense, convolutional or recurrent layer"
    if _width_name(watched.layer) is None or getattr(watched.layer, "groups", 1) != 1:
        return f"is a {type(watched.layer).__name__} with a width that can't be changed"
    reachable = node is watched.layer or isinstance(node, keras.layers.TimeDistributed | keras.layers.Bidirectional)
    return "" if reachable else f"is inside {type(node).__name__}"


def _width_name(layer: Any) -> str | None:
    return next((name for name in ("units", "filters") if isinstance(getattr(layer, name, None), int)), None)


def _resized(editor: Editor, widths: Mapping[str, int]) -> tuple[Any, str]:
    """Return the model with other widths, or None and the reason."""
    try:
        model = rebuild(editor.model, replaced=_replaced(editor, widths))
    except (ValueError, InputError) as error:  # Keras: shapes do not match
        return None, f"widths are tied: {str(error).strip().splitlines()[0]}"
    if _shapes(model.outputs) != _shapes(editor.model.outputs):
        return None, "the output would have another shape"
    for watched, _ in _changed(editor, model):
        if not editor.may_change(watched):
            return None, f"{watched.info.name} would have to change, and is frozen or protected by keep"
    return model, ""


def _replaced(editor: Editor, widths: Mapping[str, int]) -> dict[int, Any]:
    """Return the new layers by `id` of the nodes that they replace."""
    replaced: dict[int, Any] = {}
    for watched in editor.graph.layers:
        if watched.info.name not in widths:
            continue
        node, name = editor.graph.node(watched.layer), _width_name(watched.layer)
        inner = copy_layer(watched.layer, **{str(name): widths[watched.info.name]})
        if isinstance(node, keras.layers.Bidirectional):
            if id(node) not in replaced:
                backward = copy_layer(node.backward_layer, **{str(name): widths[watched.info.name]})
                replaced[id(node)] = keras.layers.Bidirectional(
                    inner, merge_mode=node.merge_mode, backward_layer=backward, name=node.name
                )
        elif node is not watched.layer:
            replaced[id(node)] = keras.layers.TimeDistributed(inner, name=node.name)
        else:
            replaced[id(node)] = inner
    return replaced


def _shapes(tensors: Any) -> list[tuple[int | None, ...]]:
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(tensors)]


def _changed(editor: Editor, model: Any) -> list[tuple[WatchedLayer, WatchedLayer]]:
    """Return the layers whose weights have other shapes in a rebuilt model, before and after."""
    pairs = zip(editor.graph.layers, watched_layers(model), strict=True)
    return [(a, b) for a, b in pairs if [w.shape for w in a.weights] != [w.shape for w in b.weights]]


def _reinitialize_changed(editor: Editor, model: Any) -> None:
    for _, watched in _changed(editor, model):
        reinitialize_weights(watched, initializer_for(watched.info.activation))
