"""Predictions and mean loss of a Keras model on a data set, with one compiled function for the whole training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers.compile_utils import CompileLoss
from numpy.typing import NDArray

from autotrainer.adapter import Evaluation
from autotrainer.backends.keras3.feeding import batches, cast
from autotrainer.data import ArrayData, Data, as_array, map_arrays

__all__ = ["Evaluator"]

_CHUNK_VALUES = 1 << 20
"""Input values of a forward pass at most, within 64 and 4096 rows."""


class Evaluator:
    """Runs a model on data without touching its metrics or any random state.

    Args:
        model: The model.
        loss: Loss as given to `compile` (several, by output, too), or None: losses are then NaN.
        loss_weights: As given to `compile`.
        batch_size: Samples a batch of the training: a loss that is summed is given for a batch of this size.
    """

    def __init__(self, model: Any, loss: Any, loss_weights: Any, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size
        self._loss = None if loss is None else CompileLoss(loss, loss_weights, output_names=_output_names(model))
        self._summed = getattr(loss, "reduction", None) == "sum"
        self._step: Callable[..., Any] | None = None

    def predict(self, inputs: Any) -> NDArray[np.float64]:
        """Return the raw (first) outputs for inputs in memory, shape (rows, ...)."""
        rows = len(keras.tree.flatten(inputs)[0])
        found = []
        size = _chunk(inputs)
        for start in range(0, rows, size):
            part = map_arrays(partial(_rows, start, start + size), inputs)
            found.append(self._outputs(self._run(part, None, None)[0]))
        return np.concatenate(found)

    def evaluate(
        self, data: Data, allowed: Callable[[int], bool] = lambda rows: True, limit: int | None = None
    ) -> Evaluation | None:
        """Return outputs, targets and mean loss.

        Args:
            data: The data.
            allowed: Asked before each forward pass with its number of samples.
            limit: Batches to read of a stream at most.

        Returns:
            The evaluation, or None where ``allowed`` said no.
        """
        if isinstance(data, ArrayData) and not allowed(data.rows):
            return None
        found: list[tuple[NDArray[Any], NDArray[Any], float]] = []
        size = _chunk(data.inputs) if isinstance(data, ArrayData) else 1
        for inputs, targets, weights in batches(data, limit, size):
            first = keras.tree.flatten(targets)[0]
            if not isinstance(data, ArrayData) and not allowed(int(first.shape[0])):
                return None
            outputs, loss = self._run(inputs, targets, weights)
            found.append((self._outputs(outputs), as_array(first), float(ops.convert_to_numpy(loss))))
        sizes = np.array([len(outputs) for outputs, _, _ in found])
        losses = np.array([loss for _, _, loss in found])
        total = losses.sum() * self._batch_size if self._summed else (losses * sizes).sum()
        targets = data.targets if isinstance(data, ArrayData) else np.concatenate([t for _, t, _ in found])
        return Evaluation(np.concatenate([o for o, _, _ in found]), targets, float(total / sizes.sum()))

    def _run(self, *batch: Any) -> tuple[Any, Any]:
        given = tuple(values for values in batch if values is not None)
        if keras.backend.backend() == "torch":
            import torch

            with torch.no_grad():
                return self._forward(*given)
        if keras.backend.backend() != "tensorflow" or self._model.run_eagerly or len(given) == 1:
            return self._forward(*given)
        if self._step is None:
            self._step = self._compiled(given)
        outputs: tuple[Any, Any] = self._step(*given)
        return outputs

    def _compiled(self, batch: tuple[Any, ...]) -> Callable[..., Any]:
        """Return the forward pass on TensorFlow, compiled for any number of rows."""
        import tensorflow as tf

        def spec(value: Any) -> Any:
            tensor = tf.convert_to_tensor(value)
            return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)

        return tf.function(self._forward, input_signature=tf.nest.map_structure(spec, batch))  # type: ignore[no-any-return]

    def _forward(self, inputs: Any, targets: Any = None, weights: Any = None) -> tuple[Any, Any]:
        training = {"training": False} if self._model._call_has_training_arg else {}
        outputs = self._model(inputs, **training)
        if targets is None or self._loss is None:
            return outputs, float("nan")
        return outputs, ops.mean(self._loss(targets, outputs, weights))

    @staticmethod
    def _outputs(outputs: Any) -> NDArray[np.float64]:
        return np.asarray(ops.convert_to_numpy(keras.tree.flatten(outputs)[0]), np.float64)


def _output_names(model: Any) -> Any:
    return getattr(model, "output_names", None)


def _rows(start: int, end: int, array: NDArray[Any]) -> NDArray[Any]:
    return cast(array[start:end])


def _chunk(inputs: Any) -> int:
    """Return how many rows of inputs to pass forward at once."""
    values: int = sum(math.prod(array.shape[1:]) for array in keras.tree.flatten(inputs))
    return min(4096, max(64, _CHUNK_VALUES // max(values, 1)))
