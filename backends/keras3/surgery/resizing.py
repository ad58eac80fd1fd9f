"""Changing the widths of layers of a model with a graph: the layers after them are rebuilt for their new inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from autotrainer.backends.keras3.model.copying import copy_layer
from autotrainer.backends.keras3.model.rebuilding import rebuild
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer, watched_layers
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.single_layer import reinitialize_weights
from autotrainer.edits import Edit, ResizeLayers, initializer_for
from autotrainer.errors import ConfigError, InputError

__all__ = ["resize_layers"]


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
