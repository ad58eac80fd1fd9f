"""The loss of the best constant outputs of a Keras model, whatever its loss."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from autotrainer.adapter.spec import ConstantLosses
from autotrainer.backends.keras3.data.batches import read_batches
from autotrainer.backends.keras3.data.target_support import check_own_loss
from autotrainer.backends.keras3.model.masks import mask_of
from autotrainer.backends.keras3.model.model_calls import call_model
from autotrainer.backends.keras3.runtime.keras_internals import CompileLoss
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state
from autotrainer.errors import ConfigError
from autotrainer.records.data import Data, as_array
from autotrainer.records.signals import Floats
from autotrainer.scoring.constant_search import MOST_VALUES, best_constants

__all__ = ["losses_with_constant_outputs"]

_FITTED_ROWS = 256
"""Rows, about, that the constants are fitted to."""


def losses_with_constant_outputs(model: Any, loss: Any, fitted: Data, held_out: Data) -> ConstantLosses:
    """Return the loss of each batch, its loss with equal outputs of all rows, and the operations; see `Trained`.

    Args:
        model: The model.
        loss: Its loss as given; nothing is returned unless the model computes this loss alone, of a single output.
        fitted: Training data, on whose first rows the constants are fitted.
        held_out: The batches.
    """
    nothing = np.zeros(0), np.zeros(0), 0
    try:
        check_own_loss(model, loss)
    except ConfigError:
        return nothing
    with preserve_random_state():
        first = next(iter(read_batches(fitted, 1, _FITTED_ROWS)), None)
        outputs = None if first is None else _outputs(model, first)
        if outputs is None:
            return nothing
        constants, count = best_constants(lambda row: _with(loss, first, outputs, row), outputs.mean(axis=0))
        losses = [_compare(model, loss, batch, constants) for batch in read_batches(held_out)]
    own, constant = np.array(losses, np.float64).reshape(-1, 2).T
    return own, constant, count * outputs.size


def _outputs(model: Any, batch: Any) -> NDArray[Any] | None:
    """Return the outputs; None if they are several, or masked, or too many."""
    outputs = call_model(model, batch[0])
    if keras.tree.is_nested(outputs) or keras.tree.is_nested(batch[1]) or mask_of(outputs) is not None:
        return None
    array = as_array(outputs)
    return array if array.dtype.kind == "f" and math.prod(array.shape[1:]) <= MOST_VALUES else None


def _compare(model: Any, loss: Any, batch: Any, constants: Floats) -> tuple[float, float]:
    outputs = _outputs(model, batch)
    if outputs is None:
        return math.nan, math.nan
    return _loss(loss, batch, outputs), _with(loss, batch, outputs, constants)


def _with(loss: Any, batch: Any, outputs: NDArray[Any], row: Floats) -> float:
    return _loss(loss, batch, np.broadcast_to(row.astype(outputs.dtype), outputs.shape))


def _loss(loss: Any, batch: Any, outputs: NDArray[Any]) -> float:
    value = CompileLoss(loss)(batch[1], ops.convert_to_tensor(np.ascontiguousarray(outputs)), batch[2])
    return float(np.mean(ops.convert_to_numpy(value)))
