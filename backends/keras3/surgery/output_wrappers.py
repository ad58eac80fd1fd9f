"""Edits that map a model's output back to the user's targets: their units, the columns of their labels."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.layers.inserted import LogarithmicTargetScaling
from autotrainer.backends.keras3.layers.label_columns import LabelColumns
from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.backends.keras3.model.rebuilding import rebuild
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.edits import Edit, NumberClasses, ScaleTargets
from autotrainer.errors import ConfigError
from autotrainer.training.data_edits import check_fitted

__all__ = ["number_classes", "refuse_order", "scale_targets"]


def scale_targets(editor: Editor, edit: ScaleTargets, apply: bool) -> Edit:
    """Map outputs trained on standardized targets back to the units of the targets."""
    _check_appendable(editor)
    if apply:
        check_fitted(edit)
        single = len(edit.mean) == 1
        if not single and keras.config.image_data_format() == "channels_first":
            raise ConfigError("several columns of targets can't be scaled with image_data_format 'channels_first'")
        scale, offset = (edit.std[0], edit.mean[0]) if single else (list(edit.std), list(edit.mean))
        name, precision = (
            editor.new_name("target_scaling"),
            keras.config.floatx(),
        )  # half has too small a range
        if edit.logarithm:
            _append(editor, LogarithmicTargetScaling.of(edit, name=name, dtype=precision))
        else:
            _append(editor, keras.layers.Rescaling(scale, offset, name=name, dtype=precision))
    return edit


def number_classes(editor: Editor, edit: NumberClasses, apply: bool) -> Edit:
    """Map outputs to the columns of their labels."""
    _check_appendable(editor)
    if apply:
        check_fitted(edit)
        _append(editor, LabelColumns(edit.labels, edit.fill, name=editor.new_name("label_columns")))
    return edit


def refuse_order(editor: Editor, edit: Edit, apply: bool) -> Edit:
    """Refuse to exchange the axes of outputs: losses of Keras take the classes last, and no graph shows a reshape.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"{type(edit).__name__}: Keras does not show whether outputs were reshaped")


def _check_appendable(editor: Editor) -> None:
    """Raise a `ConfigError` if nothing can be appended to the model."""
    kind = type(editor.model)
    if not has_graph(editor.model) and kind.train_step is not keras.Model.train_step:
        raise ConfigError(f"{kind.__name__} overrides train_step: nothing can be appended to it")
    if not has_graph(editor.model) and editor.shapes is not None and len(editor.shapes) != 1:
        raise ConfigError(f"{kind.__name__} takes several inputs: nothing can be appended to its call()")
    if has_graph(editor.model) and len(keras.tree.flatten(editor.model.outputs)) != 1:
        raise ConfigError("the model has several outputs")


def _append(editor: Editor, layer: Any) -> None:
    model = editor.model
    if not has_graph(model):
        shape = None if editor.shapes is None else editor.shapes[0]
        inputs = [] if shape is None else [keras.Input(shape)]
        editor.model = keras.Sequential([*inputs, model, layer])
    elif isinstance(model, keras.Sequential):
        editor.model = rebuild(model, after={id(model.layers[-1]): [layer]})
    else:
        editor.model = type(model)(model.input, keras.tree.map_structure(layer, model.output), name=model.name)
