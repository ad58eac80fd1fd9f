"""The initial state of managed trainings: a built copy of the user's Keras model, and fresh copies of it."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.data.batches import read_batches
from autotrainer.backends.keras3.model.copying import check_copy, copy_names, copy_value, has_graph
from autotrainer.backends.keras3.model.model_calls import call_model, error_reason
from autotrainer.backends.keras3.model.rebuilding import copy_model
from autotrainer.errors import DataError, InputError
from autotrainer.records.data import Data

__all__ = ["InitialState", "build_model", "check_trainable", "first_samples"]


class InitialState:
    """Keeps an unchanged, built copy of the original model: all trainings start from copies of it.

    Args:
        original: The user's model, or the one that the user's callable has built.
        argument: The user's argument: a model, or a callable that builds one.
        example: Inputs of a few training samples.

    Raises:
        InputError: If the model can't be copied or has no trainable weights.
        DataError: If the samples do not fit the model.
    """

    def __init__(self, original: Any, argument: Any, example: Any) -> None:
        self._argument = argument
        self._example = example
        self.model = self._built_copy(original)
        if not self.model.weights:
            check_trainable(self.model)

    def copy(self) -> Any:
        """Return a fresh copy of the model, with the same weights."""
        return self._copy_of(self.model)

    def output_shape(self, example: Any, name: str) -> tuple[int | None, ...]:
        """Return the shape of the (first) output, with None for the number of samples.

        Raises:
            DataError: If the inputs do not fit the model; ``name`` is that of the data.
            InputError: If the model returns no tensor.
        """
        result = _forward(self.model, example, name)
        outputs = keras.tree.flatten(result)
        if not outputs or not hasattr(outputs[0], "shape"):
            raise InputError(f"the model returns {type(result).__name__} without a tensor for {name}")
        return (None, *outputs[0].shape[1:])

    def input_name(self, index: int) -> str | None:
        """Return the name of an input of a model with a graph, else None."""
        inputs = self.model.inputs if has_graph(self.model) else None
        return None if inputs is None else keras.tree.flatten(inputs)[index]._keras_history.operation.name

    def _built_copy(self, original: Any) -> Any:
        """Return a built copy of the user's model or of the one that the callable has made."""
        if not (original.built and original.weights):  # build() of a model that is code may leave layers for later
            from_callable = original is not self._argument
            original = original if from_callable else copy_model(original)
            _forward(original, self._example, "train_data")
            if not from_callable:
                return original
        return self._copy_of(original)

    def _copy_of(self, model: Any) -> Any:
        """Return a copy of a built model: by its graph, else by the user's callable, else by its configuration."""
        if has_graph(model) or isinstance(self._argument, keras.Model):
            copy = copy_model(model)
        else:
            copy = build_model(self._argument)
            copy = copy_model(model) if copy is model else copy
        if len(copy.weights) != len(model.weights):
            _forward(copy, self._example, "train_data")
        if not has_graph(model):
            check_copy(model, copy)
            copy_names(model, copy)
        for old, new in zip(model.weights, copy.weights, strict=True):
            copy_value(old, new)
        return copy


def check_trainable(model: Any) -> None:
    """Raise an `InputError` if a model has no trainable weights."""
    if not model.trainable_variables:
        raise InputError(
            "the model has no trainable weights: call it once on a batch if it is not built, or set trainable = True"
        )


def build_model(builder: Any) -> Any:
    """Return the model that a callable builds.

    Raises:
        InputError: If it is not callable, or does not return a model.
    """
    if not callable(builder):
        raise InputError(f"model must be a keras.Model or a callable that builds one, not {type(builder).__name__}")
    model = builder()
    if not isinstance(model, keras.Model):
        raise InputError(f"the callable given as model must return a keras.Model, not {type(model).__name__}")
    return model


def first_samples(data: Data, name: str) -> Any:
    """Return the inputs of two samples.

    Raises:
        DataError: If there is no batch; ``name`` is that of the data.
    """
    first = next(iter(read_batches(data, 1, size=2)), None)
    if first is None:
        raise DataError(f"{name} holds no batch")
    return keras.tree.map_structure(lambda v: v[:2], first[0])


def _forward(model: Any, inputs: Any, name: str) -> Any:
    try:
        return call_model(model, inputs)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda v: tuple(v.shape), inputs)
        raise DataError(
            f"{name} does not fit the model: inputs of shape {shapes} (first samples): {error_reason(error)}"
        ) from error
