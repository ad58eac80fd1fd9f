"""Edits that put a model's output back into the user's own terms: units of the targets, columns of the labels."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.layers.label_columns import LabelColumns
from autotrainer.backends.keras3.model.structure import has_graph, rebuild
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.edits import Edit, NumberClasses, ScaleTargets
from autotrainer.errors import ConfigError

__all__ = ["number_classes", "scale_targets"]


def scale_targets(bench: Editor, edit: ScaleTargets, act: bool) -> Edit:
    """Put outputs that were trained on standardized targets back into the units of the targets."""
    _check(bench)
    if act:
        if not edit.mean:
            raise ConfigError("ScaleTargets has no numbers: take the plan of a result, where they are filled in")
        single = len(edit.mean) == 1
        if not single and keras.config.image_data_format() == "channels_first":
            raise ConfigError("several columns of targets can't be scaled where channels come first")
        scale, offset = (edit.std[0], edit.mean[0]) if single else (list(edit.std), list(edit.mean))
        name, precision = bench.new_name("target_scaling"), keras.config.floatx()  # half has no room for the units
        _put_behind(bench, keras.layers.Rescaling(scale, offset, name=name, dtype=precision))
    return edit


def number_classes(bench: Editor, edit: NumberClasses, act: bool) -> Edit:
    """Put outputs into the columns of their labels."""
    _check(bench)
    if act:
        if not edit.labels:
            raise ConfigError("NumberClasses has no labels: take the plan of a result, where they are filled in")
        _put_behind(bench, LabelColumns(edit.labels, edit.fill, name=bench.new_name("label_columns")))
    return edit


def _check(bench: Editor) -> None:
    """Raise a `ConfigError` where nothing can be put behind the model."""
    kind = type(bench.model)
    if not has_graph(bench.model) and kind.train_step is not keras.Model.train_step:
        raise ConfigError(f"{kind.__name__} has a train_step of its own: nothing can be put behind it")
    if not has_graph(bench.model) and bench.shapes is not None and len(bench.shapes) != 1:
        raise ConfigError(f"{kind.__name__} takes several inputs: nothing can be put behind its call()")
    if has_graph(bench.model) and len(keras.tree.flatten(bench.model.outputs)) != 1:
        raise ConfigError("the model has several outputs")


def _put_behind(bench: Editor, layer: Any) -> None:
    model = bench.model
    if not has_graph(model):
        shape = None if bench.shapes is None else bench.shapes[0]
        inputs = [] if shape is None else [keras.Input(shape)]
        bench.model = keras.Sequential([*inputs, model, layer])
    elif isinstance(model, keras.Sequential):
        bench.model = rebuild(model, after={id(model.layers[-1]): [layer]})
    else:
        bench.model = type(model)(model.input, keras.tree.map_structure(layer, model.output), name=model.name)
