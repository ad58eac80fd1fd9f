"""The pristine start of managed trainings: a built copy of the given Keras model, and fresh copies of that."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.data.feeding import batches, reason_of
from autotrainer.backends.keras3.model.structure import check_copy, copy_model, copy_value, has_graph, name_alike
from autotrainer.errors import DataError, InputError
from autotrainer.records.data import Data

__all__ = ["InitialState", "built", "first_samples"]


class InitialState:
    """Keeps a built copy of the model as given, which stays as it is: all trainings start from copies of it.

    Args:
        given: Model as given, or the one that the callable given built.
        source: What the user gave: a model, or a callable that builds one.
        example: Inputs of a few training samples.

    Raises:
        InputError: If the model can't be copied, the samples do not fit it, or it has nothing to train.
    """

    def __init__(self, given: Any, source: Any, example: Any) -> None:
        self._source = source
        self._example = example
        self.model = self._start(given)
        if not self.model.trainable_variables:
            raise InputError(
                "the model has no weight to train: call it once on a batch where it is not built yet, or set "
                "trainable = True where it is to be trained"
            )

    def copy(self) -> Any:
        """Return a fresh copy of the model, with the same weights."""
        return self._copy_of(self.model)

    def output_shape(self, example: Any, what: str) -> tuple[int | None, ...]:
        """Return the shape of (first) outputs, None for the samples.

        Raises:
            DataError: If the inputs do not fit the model; ``what`` names them.
        """
        output = keras.tree.flatten(_forward(self.model, example, what))[0]
        return (None, *output.shape[1:])

    def input_name(self, entry: int) -> str | None:
        """Return the name of an input of a model with a graph, else None."""
        inputs = self.model.inputs if has_graph(self.model) else None
        return None if inputs is None else keras.tree.flatten(inputs)[entry]._keras_history.operation.name

    def _start(self, given: Any) -> Any:
        """Return a built copy; of a model that the user's callable made for us, itself."""
        if not given.built:
            own = given is not self._source
            given = given if own else copy_model(given)
            _forward(given, self._example, "train_data")
            if not own:
                return given
        return self._copy_of(given)

    def _copy_of(self, model: Any) -> Any:
        """Return a copy of a built model: by its graph, else by the user's callable, else by its configuration."""
        if has_graph(model) or isinstance(self._source, keras.Model):
            copy = copy_model(model)
        else:
            copy = built(self._source)
            copy = copy_model(model) if copy is model else copy
        if len(copy.weights) != len(model.weights):
            _forward(copy, self._example, "train_data")
        if not has_graph(model):
            check_copy(model, copy)
            name_alike(model, copy)
        for old, new in zip(model.weights, copy.weights, strict=True):
            copy_value(old, new)
        return copy


def built(builder: Any) -> Any:
    """Return the model that a callable builds.

    Raises:
        InputError: If it is no callable, or returns no model.
    """
    if not callable(builder):
        raise InputError(f"model must be a keras.Model or a callable that builds one, not {type(builder).__name__}")
    model = builder()
    if not isinstance(model, keras.Model):
        raise InputError(f"the callable given as model returned no keras.Model but {type(model).__name__}")
    return model


def first_samples(data: Data, what: str) -> Any:
    """Return the inputs of two samples.

    Raises:
        DataError: If there is no batch; ``what`` names the data.
    """
    first = next(iter(batches(data, 1, size=2)), None)
    if first is None:
        raise DataError(f"{what} holds no batch")
    return keras.tree.map_structure(lambda v: v[:2], first[0])


def _forward(model: Any, inputs: Any, what: str) -> Any:
    training = {"training": False} if model._call_has_training_arg else {}
    try:
        return model(inputs, **training)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda v: tuple(v.shape), inputs)
        raise DataError(
            f"{what} does not fit the model: inputs of shape {shapes} (first samples): {reason_of(error)}"
        ) from error
