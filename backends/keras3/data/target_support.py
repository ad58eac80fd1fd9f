"""Says why an edit of data or targets can't be applied to a training."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.data.batches import first_array, read_batches
from autotrainer.backends.keras3.data.training_data import TrainingData
from autotrainer.backends.keras3.layers.converted_loss import ConvertedLoss
from autotrainer.backends.keras3.layers.inserted import LogarithmicTargetScaling
from autotrainer.backends.keras3.model.loss_kinds import loss_info
from autotrainer.backends.keras3.model.model_calls import call_model
from autotrainer.backends.keras3.runtime.keras_internals import CompileLoss
from autotrainer.edits import (
    DropBadRows,
    Edit,
    EncodeTargets,
    LeadPadding,
    NumberClasses,
    ReshapeTargets,
    ScaleTargets,
    ShuffleData,
    WeightClasses,
)
from autotrainer.errors import ConfigError
from autotrainer.records.data import Data, as_array
from autotrainer.training.data_edits import numbering_refusal, scaling_refusal, width_refusal

__all__ = ["check_own_loss", "check_target_edit", "labels_out_of_range", "loss_refusal"]

_ROWS = 8


def check_own_loss(model: Any, loss: Any) -> None:
    """Raise a `ConfigError` where a model does not compute one loss as Keras does."""
    kind = type(model)
    if kind.train_step is not keras.Model.train_step or kind.compute_loss is not keras.Model.compute_loss:
        raise ConfigError(f"{kind.__name__} computes its loss in code of its own")
    if keras.tree.is_nested(loss):
        raise ConfigError("the model has several losses")
    if loss is None:
        raise ConfigError("the model adds its losses itself")


def loss_refusal(loss: Any, model: Any, data: Data) -> str:
    """Return why the loss of the first samples can't be computed; nothing where it can, or the model computes its own.

    Args:
        loss: The loss as given.
        model: The pristine model.
        data: The training data.
    """
    try:
        check_own_loss(model, loss)
        targets, output = _first(model, data)
    except ConfigError:
        return ""
    try:
        CompileLoss(loss)(targets, output)
    except Exception as error:  # noqa: BLE001 - whatever the user's loss raises: the training as given raises it too
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""


def labels_out_of_range(loss: Any, units: int, data: Data, limit: int | None) -> str:
    """Say which class index of the data is no output of the model; return nothing where all are, or none are taken.

    Args:
        loss: The loss as given.
        units: Outputs of the model.
        data: Arrays or a data set.
        limit: Batches to look through, or None for all.
    """
    info = loss_info(loss)
    if info.family != "cross_entropy" or info.targets == "one_hot" or keras.tree.is_nested(loss):
        return ""
    masked = getattr(loss, "ignore_class", None)
    for _, targets, _ in read_batches(data, limit):
        labels = as_array(targets).reshape(-1)
        wrong = labels[((labels < 0) | (labels >= units)) & (labels != masked)]
        if wrong.size:
            return (
                f"the data hold class index {int(wrong[0])}, but the model has {units} outputs, for classes 0 to "
                f"{units - 1}: number the classes from 0, or widen the output"
            )
    return ""


def _first(model: Any, data: Data) -> tuple[Any, Any]:
    """Return targets and outputs of the first samples.

    Raises:
        ConfigError: If there are several.
    """
    inputs, targets, _ = next(iter(read_batches(data, 1, _ROWS)))
    output = call_model(model, keras.tree.map_structure(lambda v: v[:_ROWS], inputs))
    if keras.tree.is_nested(output) or keras.tree.is_nested(targets):
        raise ConfigError("the model has several outputs")
    return as_array(targets)[:_ROWS], output


def check_target_edit(edit: Edit, loss: Any, model: Any, training_data: TrainingData) -> None:
    """Raise a `ConfigError` where a training can't be run with an edit of data or targets; others are passed over.

    Args:
        edit: The edit.
        loss: The loss as given.
        model: The pristine model.
        training_data: The training data.
    """
    if isinstance(edit, ShuffleData | DropBadRows | WeightClasses):
        if isinstance(edit, WeightClasses) and keras.tree.is_nested(loss):
            raise ConfigError("the model has several losses")
        training_data.feed([training_data.fitted(edit)])
    if isinstance(edit, LeadPadding):
        training_data.fitted(edit)
        inputs, _, _ = next(iter(read_batches(training_data.data, 1, _ROWS)))
        outputs = keras.tree.flatten(call_model(model, keras.tree.map_structure(lambda v: v[:_ROWS], inputs)))
        if any(as_array(first_array(inputs)).shape[1] in output.shape[1:] for output in outputs):
            raise ConfigError("there is an output for each token")
    if not isinstance(edit, ScaleTargets | EncodeTargets | NumberClasses | ReshapeTargets):
        return
    check_own_loss(model, loss)
    info = loss_info(loss)
    filled, exact = training_data.fitted(edit), isinstance(edit, ScaleTargets) and bool(edit.mean)
    targets, output = _first(model, training_data.data)
    if isinstance(filled, NumberClasses):
        _refuse(numbering_refusal(filled.labels, output.shape[-1], info))
        return
    if isinstance(filled, ScaleTargets):
        _refuse("" if exact else scaling_refusal(info))
        if targets.ndim == len(output.shape) == 2:
            _refuse(width_refusal(targets.shape[1], output.shape[1], info))
    if isinstance(filled, ReshapeTargets) and tuple(targets.shape) == tuple(output.shape):
        raise ConfigError("targets have the shape of the outputs already")
    if isinstance(filled, ReshapeTargets | ScaleTargets) and targets.size != math.prod(output.shape):
        raise ConfigError(f"outputs {tuple(output.shape)} do not fit targets {tuple(targets.shape)}")
    if isinstance(filled, ScaleTargets):
        if filled.logarithm:
            output = LogarithmicTargetScaling.of(filled)(output)
        else:
            output = output * np.asarray(filled.std, "float32") + np.asarray(filled.mean, "float32")
    try:
        value = float(keras.ops.convert_to_numpy(ConvertedLoss(loss, (filled,))(targets, output)))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{type(edit).__name__} can't be applied here: {reason}") from error
    known = np.isfinite(keras.ops.convert_to_numpy(output)).all() and np.isfinite(targets.astype(float)).all()
    if known and not np.isfinite(value):
        raise ConfigError("the loss of the first samples is not finite")


def _refuse(reason: str) -> None:
    if reason:
        raise ConfigError(reason)
