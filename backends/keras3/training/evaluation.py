"""Predictions and mean loss of a Keras model on a data set, with one compiled function for the whole training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation
from autotrainer.backends.keras3.data.batches import cast, read_batches
from autotrainer.backends.keras3.model.loss_kinds import loss_info
from autotrainer.backends.keras3.model.losses import in_output_order
from autotrainer.backends.keras3.model.masks import mask_of, masked_like, unmasked
from autotrainer.backends.keras3.model.model_calls import call_model
from autotrainer.backends.keras3.runtime.keras_internals import CompileLoss
from autotrainer.errors import DataError
from autotrainer.records.data import ArrayData, Data, as_array, map_arrays
from autotrainer.records.task import LossInfo
from autotrainer.training.padding import joined, joined_targets

__all__ = ["Evaluator"]

_CHUNK_VALUES = 1 << 20
"""Input values of a forward pass at most, within 64 and 4096 rows."""


@dataclass(frozen=True, slots=True)
class _Batch:
    outputs: NDArray[np.float64]
    targets: NDArray[Any]
    losses: Sequence[float]
    mask: NDArray[np.bool_] | None

    def counts(self) -> NDArray[np.bool_]:
        """Return which steps count, shape (rows, time...)."""
        return np.ones(self.outputs.shape[:-1], np.bool_) if self.mask is None else self.mask


class Evaluator:
    """Runs a model on data without changing its metrics or any random state.

    Args:
        model: The model.
        loss: Loss as passed to `compile` (also several, by output); None: losses are NaN.
        loss_weights: As passed to `compile`.
        batch_size: Samples per batch of the training: a summed loss is reported for a batch of this size.
        trained_loss: Loss that the model is trained on instead of the original one, or None.
        comparable: Whether that can take its place: it is the same loss, of converted targets, or the original one has
            no value without edits either.
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        loss_weights: Any,
        batch_size: int,
        trained_loss: Any = None,
        *,
        comparable: bool = True,
    ) -> None:
        self._model, self._batch_size, self._comparable = model, batch_size, comparable
        self._losses = [
            None if each is None else CompileLoss(each, weights, output_names=getattr(model, "output_names", None))
            for each, weights in ((loss, loss_weights), (trained_loss, None))
        ]
        self._summed = [getattr(each, "reduction", None) == "sum" for each in (loss, trained_loss)]
        self._convert = None if trained_loss is None else _to_probabilities(loss_info(trained_loss), loss_info(loss))
        self._step: Callable[..., Any] | None = None

    def predict(self, inputs: Any) -> NDArray[np.float64]:
        """Return the raw (first) outputs for inputs in memory, shape (rows, ...)."""
        rows = len(keras.tree.flatten(inputs)[0])
        results = []
        size = _rows_per_call(inputs)
        for start in range(0, rows, size):
            part = map_arrays(partial(_rows, start, start + size), inputs)
            results.append(self._outputs(self._run(part, None, None)[0]))
        return np.concatenate(results)

    def evaluate(
        self, data: Data, allowed: Callable[[int], bool] = lambda rows: True, limit: int | None = None
    ) -> Evaluation | None:
        """Return outputs, targets and mean loss.

        Args:
            data: The data.
            allowed: Called before each forward pass with its number of samples; returns whether to run it.
            limit: Batches to read of a stream at most.

        Returns:
            The evaluation, or None if ``allowed`` returned False. Sequences of a stream whose batches differ in length
            are padded at the end.

        Raises:
            DataError: If the data hold no batch.
        """
        if isinstance(data, ArrayData) and not allowed(data.rows):
            return None
        results: list[_Batch] = []
        size = _rows_per_call(data.inputs) if isinstance(data, ArrayData) else 1
        for inputs, targets, weights in read_batches(data, limit, size):
            first = keras.tree.flatten(in_output_order(targets, self._model))[0]
            if not isinstance(data, ArrayData) and not allowed(int(first.shape[0])):
                return None
            outputs, losses, mask = self._run(inputs, targets, weights)
            values = [float(ops.convert_to_numpy(loss)) for loss in losses]
            results.append(_Batch(self._outputs(outputs), as_array(first), values, _as_numpy(mask)))
        if not results:
            raise DataError("the data set to evaluate on holds no batch: it is empty, or can be read only once")
        outputs = joined([batch.outputs for batch in results], 0.0)
        targets = data.targets if isinstance(data, ArrayData) else joined_targets([b.targets for b in results])
        mask = joined([batch.counts() for batch in results], False) if outputs.ndim > 2 else None
        original, trained = (self._mean(results, which) for which in (0, 1))
        counted = unmasked(targets, outputs, mask)
        trained_mean = None if self._losses[1] is None else trained
        known = any(loss is not None for loss in self._losses)
        return Evaluation(outputs, targets, original, trained_mean, None if counted is targets else counted, known)

    def _mean(self, results: list[_Batch], which: int) -> float:
        """Return the mean of the original loss (0), or of the one that is trained on (1)."""
        sizes = np.array([len(batch.outputs) for batch in results])
        losses = np.array([batch.losses[which] for batch in results])
        total = losses.sum() * self._batch_size if self._summed[which] else (losses * sizes).sum()
        return float(total / sizes.sum())

    def _run(self, *batch: Any) -> tuple[Any, Any, Any]:
        arguments = tuple(values for values in batch if values is not None)
        if keras.backend.backend() == "torch":
            import torch

            with torch.no_grad():
                return self._forward(*arguments)
        if keras.backend.backend() != "tensorflow" or self._model.run_eagerly or len(arguments) == 1:
            return self._forward(*arguments)
        if self._step is None:
            import tensorflow as tf

            # Shapes differ: the last batch has fewer rows, and sequences may be as long as the longest of a batch.
            self._step = tf.function(self._forward, reduce_retracing=True)
        outputs: tuple[Any, Any, Any] = self._step(*arguments)
        return outputs

    def _forward(self, inputs: Any, targets: Any = None, weights: Any = None) -> tuple[Any, Any, Any]:
        """Return outputs, the losses (original and trained on; NaN for none), and the mask of the first output."""
        outputs = call_model(self._model, inputs)
        mask = mask_of(keras.tree.flatten(outputs)[0])
        if targets is None:
            return outputs, (float("nan"), float("nan")), mask
        converted = outputs if self._convert is None else keras.tree.map_structure(self._convert, outputs)
        trained = self._loss(1, targets, outputs, weights)
        try:
            original = self._loss(0, targets, converted, weights)
        except (TypeError, ValueError):
            if self._losses[1] is None:
                raise
            # the original loss may not accept such outputs and targets
            original = trained if self._comparable else trained * float("nan")
        return outputs, (original, trained), mask

    def _loss(self, which: int, targets: Any, outputs: Any, weights: Any) -> Any:
        loss = self._losses[which]
        return float("nan") if loss is None else ops.mean(loss(targets, outputs, weights))

    @staticmethod
    def _outputs(outputs: Any) -> NDArray[np.float64]:
        return np.asarray(ops.convert_to_numpy(keras.tree.flatten(outputs)[0]), np.float64)


def _as_numpy(mask: Any) -> NDArray[np.bool_] | None:
    return None if mask is None else np.asarray(ops.convert_to_numpy(mask), np.bool_)


def _to_probabilities(new: LossInfo, original: LossInfo) -> Callable[[Any], Any] | None:
    """Return a function from logits for the new loss to probabilities for the original one; None if not needed."""
    if (new.expects, original.expects) != ("logits", "probabilities"):
        return None

    def convert(outputs: Any) -> Any:
        several = len(outputs.shape) > 1 and outputs.shape[-1] > 1 and new.family == "cross_entropy"
        return masked_like(ops.softmax(outputs) if several else ops.sigmoid(outputs), outputs)

    return convert


def _rows(start: int, end: int, array: NDArray[Any]) -> NDArray[Any]:
    return cast(array[start:end])


def _rows_per_call(inputs: Any) -> int:
    """Return the rows of a forward pass."""
    values: int = sum(math.prod(array.shape[1:]) for array in keras.tree.flatten(inputs))
    return min(4096, max(64, _CHUNK_VALUES // max(values, 1)))
