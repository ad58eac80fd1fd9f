"""Measures on training rows whether a custom loss compares outputs with targets."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from autotrainer.backends.keras3.data.batches import read_batches
from autotrainer.backends.keras3.data.target_support import check_own_loss
from autotrainer.backends.keras3.model.model_calls import call_model
from autotrainer.backends.keras3.runtime.keras_internals import CompileLoss
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state
from autotrainer.errors import ConfigError
from autotrainer.output import logger
from autotrainer.records.data import ArrayData, as_array
from autotrainer.records.task import TaskContext
from autotrainer.scoring.loss_use import measured_rows, with_measured_loss

__all__ = ["measured"]


def measured(context: TaskContext, model: Any, loss: Any, data: Any) -> TaskContext:
    """Return the context with what is measured of a custom loss; see `with_measured_loss`.

    Args:
        context: The training.
        model: The pristine model.
        loss: The loss as given.
        data: Arrays of training rows; a stream may be costly to begin, or end with its first pass, and is not read.
    """
    if context.loss.family != "custom" or not isinstance(data, ArrayData):
        return context
    try:
        check_own_loss(model, loss)
        with preserve_random_state():
            return _measured(context, model, copy.deepcopy(loss), data)  # it may count its calls
    except ConfigError:
        return context
    except Exception as error:  # noqa: BLE001 - the user's model or data: the training itself raises it
        logger.debug("the loss is not measured: %r", error)
        return context


def _measured(context: TaskContext, model: Any, loss: Any, data: ArrayData) -> TaskContext:
    rows = measured_rows(data)
    if not rows.rows:
        return context
    inputs, targets, weights = next(iter(read_batches(rows, 1, rows.rows)))
    outputs = call_model(model, inputs)
    flat = keras.tree.flatten(outputs)
    if keras.tree.is_nested(targets):
        return context

    def value(others: NDArray[Any] | None, labels: NDArray[Any]) -> float:
        given = outputs if others is None else ops.convert_to_tensor(others)
        with preserve_random_state():
            result = CompileLoss(loss)(ops.convert_to_tensor(labels), given, weights)
        return float(np.mean(ops.convert_to_numpy(result)))

    primary = as_array(flat[0])
    return with_measured_loss(context, value, primary, as_array(targets), single=not keras.tree.is_nested(outputs))
