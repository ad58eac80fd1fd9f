"""Finds the model that an optimizer trains among all live objects: the optimizer only knows variables."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["find_models"]


def find_models(variables: Sequence[Any]) -> list[Any]:
    """Return the smallest model with all of these variables, or else the outermost ones with some of them.

    Of models with the same variables, the outermost is taken.
    """
    classes = _subclasses(keras.Model)
    required = {id(v) for v in variables}
    fitting = []
    for model in [o for o in gc.get_objects() if type(o) in classes and "_layers" in vars(o)]:
        weights = model.trainable_variables
        ids = {id(v) for v in weights}
        if ids.isdisjoint(required):  # variables may be those of the engine
            ids = {id(v.value) for v in weights}
        if not ids.isdisjoint(required):
            fitting.append((model, ids))
    whole = [(len(ids), -len(model._flatten_layers()), model) for model, ids in fitting if ids >= required]
    if whole:
        return [min(whole, key=lambda item: item[:2])[2]]
    inside = {id(part) for model, _ in fitting for part in model._flatten_layers(include_self=False)}
    return [model for model, _ in fitting if id(model) not in inside]


def _subclasses(kind: type) -> set[type]:
    derived: list[type] = type.__subclasses__(kind)
    return {kind}.union(*map(_subclasses, derived))
