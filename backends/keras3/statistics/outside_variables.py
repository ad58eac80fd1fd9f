"""Variables of TensorFlow that a model's outputs depend on, but that neither the model nor an optimizer has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import ref

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.backends.keras3.runtime.tensors import to_array
from autotrainer.monitoring.weight_patterns import ORIGIN_SIZE, matrix_origin

__all__ = ["OutsideVariables"]

_INSPECTED = 4
"""Sampled steps in which new variables are looked for."""

_ENTRIES = 64
"""Entries of a variable that show whether it changes."""


class OutsideVariables:
    """Finds variables that the call of a model reads, and that neither the model nor an optimizer has.

    Keras 3 trains no `tf.Variable` of a layer: only those of ``add_weight`` or `keras.Variable`. Layers that are made
    in ``call`` are new in each call. Vectors and constants may be settings of the user, and do not count by themselves.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._found: list[tuple[ref[Any], NDArray[Any], int]] = []  # with entries of it, and the step that found it
        self._new: list[int] = []  # entries that each of the first steps was the first to use
        self._drawn = False
        """Whether those of the latest step have the weights of an initializer."""

    def values(self, variables: Sequence[Any], optimizers: Iterable[Any]) -> dict[str, float]:
        """Return ``outside_parameters`` and ``outside_drawn``, see `STEP_COLUMNS`.

        Args:
            variables: What the model has read in a step.
            optimizers: All that update the model.
        """
        if len(self._new) < _INSPECTED:
            self._inspect(variables, optimizers)
        alive = [(v, entries, at) for reference, entries, at in self._found if (v := reference()) is not None]
        latest = len(self._new) - 1
        if latest > 0 and all(self._new) and all(at == latest for _, _, at in alive):  # made anew by each call
            count = self._new[-1] * self._drawn
        else:
            count = sum(math.prod(v.shape) for v, entries, _ in alive if np.array_equal(_entries(v), entries))
        return {"outside_parameters": float(count), "outside_drawn": float(self._drawn)}

    def _inspect(self, variables: Sequence[Any], optimizers: Iterable[Any]) -> None:
        updated = (getattr(inner_optimizer(optimizer), "_trainable_variables", ()) for optimizer in optimizers)
        own = {id(v.value) if isinstance(v, keras.Variable) else id(v) for v in self._model.variables}
        own.update(id(v.value) if isinstance(v, keras.Variable) else id(v) for each in updated for v in each)
        own.update(id(v) for reference, _, _ in self._found if (v := reference()) is not None)
        new = [v for v in variables if id(v) not in own]
        matrices = [v for v in new if len(v.shape) > 1 and np.ptp(_entries(v)) > 0]
        new = new if matrices else []
        self._found += [(ref(v), _entries(v), len(self._new)) for v in new]
        self._new.append(sum(math.prod(v.shape) for v in new))
        if new:
            origins = [_origin(v) for v in matrices]
            self._drawn = "drawn" in origins and "trained" not in origins


def _value(variable: Any) -> Any:
    """Return the value of a variable, without telling tapes that it was read."""
    import tensorflow as tf

    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def _entries(variable: Any) -> NDArray[Any]:
    """Return a few entries of a variable, from all of it."""
    entries = keras.ops.reshape(_value(variable), (-1,))
    return np.array(to_array(entries[:: max(1, math.prod(variable.shape) // _ENTRIES)]))


def _origin(variable: Any) -> str:
    matrix = keras.ops.reshape(_value(variable), (-1, variable.shape[-1]))
    rows, columns = (math.ceil(size / ORIGIN_SIZE) for size in matrix.shape)
    return matrix_origin(to_array(matrix[::rows, ::columns]).astype(np.float64))
