"""Weights of rows and of classes, as `keras.Model.fit` takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.data.batches import read_batches
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData, Data, StreamData, as_array, check_weights

__all__ = ["check_class_weight", "weighted"]

_SAMPLE_BATCHES = 16


def check_class_weight(given: Any) -> dict[int, float] | None:
    """Return weights by class; None for none.

    Raises:
        ConfigError: If it is no mapping from classes to weights.
    """
    if not isinstance(given or {}, Mapping):
        raise ConfigError("fit_args: class_weight must be a dict of weights by class")
    for label, weight in (given or {}).items():
        if (
            isinstance(label, bool)
            or not isinstance(label, Real)
            or not (float(label) >= 0 and float(label).is_integer())
        ):
            raise ConfigError(
                f"fit_args: class_weight has the class {shorten(label)}: classes are whole numbers from 0"
            )
        if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 <= float(weight) < math.inf:
            raise ConfigError(
                f"fit_args: class_weight gives class {label} the weight {shorten(weight)}: not a number >= 0"
            )
    return {int(label): float(weight) for label, weight in given.items()} if given else None


def weighted(data: Data, by_row: Any, by_class: Mapping[int, float] | None) -> Data:
    """Return the training data with the weights of their rows.

    Args:
        data: The data.
        by_row: Weights of the rows, or None.
        by_class: Weights of the classes, or None. Arrays get them as weights of their rows (of the steps of
            sequences), 1 for a class that is left out, as in `keras.Model.fit`. For a data set they are only checked:
            Keras applies them itself.

    Raises:
        ConfigError: If Keras can't apply them.
    """
    if by_row is not None:
        by_row = as_array(by_row, "fit_args: sample_weight")
        if not isinstance(data, ArrayData) or by_row.shape[:1] != (data.rows,):
            raise ConfigError(
                "fit_args: sample_weight does not fit the training rows: give (x, y, sample_weight) as train_data"
            )
        if data.weights is not None:
            raise ConfigError(
                "fit_args: sample_weight is given together with the weights of train_data (x, y, sample_weight): "
                "give one of them"
            )
        check_weights(by_row, data.targets, "fit_args: sample_weight")
        data = ArrayData(data.inputs, data.targets, by_row)
    if by_class is None:
        return data
    if not isinstance(data, ArrayData):
        _check_stream(data, by_class)
        return data
    _check_free(data.weights)
    labels = _classes(data.targets)
    classes, places = np.unique(labels, return_inverse=True)
    known = np.array([by_class.get(int(label), 1.0) for label in classes], keras.config.floatx())
    return ArrayData(data.inputs, data.targets, known[places].reshape(labels.shape))


def _check_stream(data: StreamData, weights: Mapping[int, float]) -> None:
    """Check, by its first batches, that Keras can weigh a data set by its classes.

    Classes that are left out weigh 1; in a `tf.data.Dataset` only up to the largest one given: there are no weights
    for others, and their look-up fails.
    """
    source = data.source
    by_tensorflow = hasattr(source, "cardinality")
    if not by_tensorflow and not isinstance(source, keras.utils.PyDataset):
        raise ConfigError(
            f"fit_args: Keras takes no class_weight for a {type(source).__name__}: let it yield (x, y, sample_weight)"
        )
    for _, targets, given in read_batches(data, _SAMPLE_BATCHES):
        if keras.tree.is_nested(targets):
            raise ConfigError("fit_args: Keras takes class_weight only for models with a single output")
        _check_free(given)
        labels = as_array(targets)
        if labels.ndim > 2 and not by_tensorflow:
            raise ConfigError("fit_args: Keras takes no class_weight for sequences here: give sample weights instead")
        classes = np.unique(_classes(labels))
        missing = classes[(classes < 0) | (classes > max(weights))].tolist() if by_tensorflow else []
        if missing:
            named = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
            raise ConfigError(
                f"fit_args: class_weight has no weight for classes that occur in the targets: {named}; "
                "a tf.data.Dataset needs one for the largest class"
            )


def _check_free(weights: Any) -> None:
    if weights is not None:
        raise ConfigError("fit_args: class_weight can't be used together with sample weights: multiply them yourself")


def _classes(targets: NDArray[Any]) -> NDArray[np.int64]:
    """Return the classes of targets as Keras reads them: one-hot in the last axis, or rounded indices."""
    if targets.ndim > 1 and targets.shape[-1] != 1:
        if targets.dtype.kind in "iu" and targets.size and targets.max() > 1:
            raise ConfigError(
                "fit_args: class_weight takes one class a row, or one-hot targets, not several class indices a row"
            )
        return np.asarray(np.argmax(targets, axis=-1), np.int64)
    flat = targets[..., 0] if targets.ndim > 1 else targets
    if not np.isfinite(flat).all():
        raise ConfigError("fit_args: class_weight takes classes as targets; some of these are not finite")
    return np.asarray(np.round(flat), np.int64)
