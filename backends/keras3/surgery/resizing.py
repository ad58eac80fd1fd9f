"""Gives layers of a model with a graph another width: what follows them is built anew by what it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from autotrainer.backends.keras3.model.parts import Part, find_parts
from autotrainer.backends.keras3.model.structure import copy_layer, rebuild
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.single_layer import draw_weights
from autotrainer.edits import Edit, ResizeLayers, initializer_for
from autotrainer.errors import ConfigError, InputError

__all__ = ["resize_layers"]


def resize_layers(bench: Editor, edit: ResizeLayers, act: bool) -> Edit:
    """Give hidden layers other numbers of units; all that can have them."""
    bench.need_graph("layers can't have another width")
    reasons, wanted = list[str](), dict[str, int]()
    for name, units in zip(edit.layers, edit.units, strict=True):
        try:
            parts = bench.named((name,))
        except ConfigError as error:
            reasons.append(str(error))
            continue
        for part in parts:
            reason = _refusal(bench, part)
            if reason:
                reasons.append(f"`{part.info.name}` {reason}")
            else:
                wanted[part.info.name] = units
    model, why = _resized(bench, wanted) if wanted else (None, "")
    if model is None:  # all at once is not possible: one after the other, as far as they go
        accepted: dict[str, int] = {}
        for name, units in wanted.items():
            one, why = _resized(bench, {**accepted, name: units})
            if one is not None:
                model, accepted = one, {**accepted, name: units}
            else:
                reasons.append(f"`{name}`: {why}")
        wanted = accepted
    if model is None:
        raise ConfigError("; ".join(dict.fromkeys(reasons)))
    if act:
        _draw_changed(bench, model)
        bench.model = model
    return ResizeLayers(tuple(wanted), tuple(wanted.values()))


def _refusal(bench: Editor, part: Part) -> str:
    node = bench.graph.node(part.layer)
    if part.info.kind not in ("dense", "conv", "recurrent") or not part.info.hidden:
        return "is no hidden dense, convolutional or recurrent layer"
    if _width_name(part.layer) is None or getattr(part.layer, "groups", 1) != 1:
        return f"is a {type(part.layer).__name__} with a width of its own making"
    known = node is part.layer or isinstance(node, keras.layers.TimeDistributed | keras.layers.Bidirectional)
    return "" if known else f"is inside {type(node).__name__}"


def _width_name(layer: Any) -> str | None:
    return next((name for name in ("units", "filters") if isinstance(getattr(layer, name, None), int)), None)


def _resized(bench: Editor, wanted: Mapping[str, int]) -> tuple[Any, str]:
    """Return the model with other widths, or None and why it is not possible."""
    try:
        model = rebuild(bench.model, replaced=_replaced(bench, wanted))
    except (ValueError, InputError) as error:  # what Keras raises where shapes do not go together
        return None, f"widths are tied: {str(error).strip().splitlines()[0]}"
    if _shapes(model.outputs) != _shapes(bench.model.outputs):
        return None, "the output would have another shape"
    for part, _ in _changed(bench, model):
        if not bench.free(part):
            return None, f"{part.info.name} would have to follow, and is frozen or kept"
    return model, ""


def _replaced(bench: Editor, wanted: Mapping[str, int]) -> dict[int, Any]:
    """Return the new layers, by `id` of the layer of the graph that each stands for."""
    made: dict[int, Any] = {}
    for part in bench.graph.parts:
        if part.info.name not in wanted:
            continue
        node, name = bench.graph.node(part.layer), _width_name(part.layer)
        inner = copy_layer(part.layer, **{str(name): wanted[part.info.name]})
        if isinstance(node, keras.layers.Bidirectional):
            if id(node) not in made:
                backward = copy_layer(node.backward_layer, **{str(name): wanted[part.info.name]})
                made[id(node)] = keras.layers.Bidirectional(
                    inner, merge_mode=node.merge_mode, backward_layer=backward, name=node.name
                )
        elif node is not part.layer:
            made[id(node)] = keras.layers.TimeDistributed(inner, name=node.name)
        else:
            made[id(node)] = inner
    return made


def _shapes(tensors: Any) -> list[tuple[int | None, ...]]:
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(tensors)]


def _changed(bench: Editor, model: Any) -> list[tuple[Part, Part]]:
    """Return the layers whose weights have other shapes in a model that was put together anew, before and after."""
    pairs = zip(bench.graph.parts, find_parts(model), strict=True)
    return [(a, b) for a, b in pairs if [w.shape for w in a.weights] != [w.shape for w in b.weights]]


def _draw_changed(bench: Editor, model: Any) -> None:
    for _, part in _changed(bench, model):
        draw_weights(part, initializer_for(part.info.activation))
