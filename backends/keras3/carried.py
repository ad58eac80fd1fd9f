"""Watching the JAX engine, which compiles a training step as one pure function: what goes in and what comes out.

While JAX trains, weights and the optimizer's state are not in the variables of the model but are carried from step to
step. Nothing is added to the step, which XLA would then round otherwise: gradients are worked out from how the step has
changed the optimizer's own moments, for those that hold them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.describe import learning_rate
from autotrainer.backends.keras3.parts import Part
from autotrainer.backends.keras3.recording import batch_of
from autotrainer.backends.keras3.stats import read_variable, to_array

__all__ = ["CarriedStep", "carried"]


@contextmanager
def carried(model: Any, values: Any) -> Iterator[bool]:
    """Give the variables of a model the values that its training step takes or returns.

    Args:
        model: The model, built and compiled.
        values: What its train function takes, or what it returns.

    Yields:
        Whether the variables have values: always on engines that keep them there.
    """
    if keras.backend.backend() != "jax":
        yield True
        return
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        yield False
        return
    variables = [model.trainable_variables, model.non_trainable_variables, optimizer.variables]
    state = next((v for v in values if _holds(v, variables)), None) if isinstance(values, tuple) else None
    if state is None:
        yield False
        return
    pairs = [pair for each, held in zip(variables, state, strict=False) for pair in zip(each, held, strict=True)]
    with keras.StatelessScope(state_mapping=pairs):
        yield True


def _holds(state: Any, variables: Sequence[Sequence[Any]]) -> bool:
    """Say whether something is the state of a training step: the values of these variables, and of metrics."""
    if not isinstance(state, tuple) or len(state) != len(variables) + 1:
        return False
    return all(isinstance(s, list | tuple) and len(s) == len(v) for s, v in zip(state, variables, strict=False))


class CarriedStep:
    """Takes training steps of a model on the JAX engine and tells what can be known of them.

    Args:
        model: The model, built and compiled.
        parts: Its layers.
        fail: Takes an exception of our own code.
    """

    def __init__(self, model: Any, parts: Sequence[Part], fail: Callable[[Exception], None]) -> None:
        self._model, self._parts, self._fail = model, tuple(parts), fail

    def take(self, base: Callable[..., Any], data: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Take a step (or as many as a call takes).

        Args:
            base: The model's own train function.
            data: What Keras gives it: the state and an iterator of batches.

        Returns:
            What the function returns; ``inputs`` and ``targets``, and ``gradient:<row>:<weight>`` where known.
        """
        if len(data) != 2 or not isinstance(data[1], Iterator):
            return base(*data), {}  # a train function of the user's own
        state, batches = data[0], list(itertools.islice(data[1], self._model.steps_per_execution))
        before, rate = self._moments(data)
        result = base(state, iter(batches))
        after, _ = self._moments(result)
        try:
            seen = batch_of(batches[-1]) if batches else {}
            for key in before.keys() & after.keys():
                seen[key] = _gradient(self._model.optimizer, before[key], after[key], rate)
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self._fail(error)
            return result, {}
        return result, seen

    def _moments(self, values: Any) -> tuple[dict[str, NDArray[Any]], float]:
        """Return copies of the first moments of all weights, as far as they tell gradients, and the learning rate."""
        try:
            with carried(self._model, values) as known:
                if known and _keeps_gradients(self._model.optimizer) and self._model.steps_per_execution == 1:
                    return dict(self._first_moments()), learning_rate(self._model.optimizer)
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self._fail(error)
        return {}, math.nan

    def _first_moments(self) -> Iterator[tuple[str, NDArray[Any]]]:
        optimizer = self._model.optimizer
        moments = optimizer._momentums if _is_adam(optimizer) else optimizer.momentums
        for row, part in enumerate(self._parts):
            for place, weight in enumerate(part.weights):
                if weight.trainable and optimizer._var_key(weight) in optimizer._trainable_variables_indices:
                    moment = moments[optimizer._get_variable_index(weight)]
                    yield f"gradient:{row}:{place}", np.array(to_array(read_variable(moment)))


def _is_adam(optimizer: Any) -> bool:
    return isinstance(optimizer, keras.optimizers.Adam | keras.optimizers.Nadam)


def _keeps_gradients(optimizer: Any) -> bool:
    """Say whether the moments of an optimizer tell the gradients as they come: not clipped, not of several batches."""
    changed = any(
        getattr(optimizer, name, None)
        for name in ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps", "loss_scale_factor")
    )
    momentum = isinstance(optimizer, keras.optimizers.SGD) and bool(optimizer.momentum)
    return not changed and (_is_adam(optimizer) or momentum)


def _gradient(optimizer: Any, before: NDArray[Any], after: NDArray[Any], rate: float) -> NDArray[Any]:
    """Return the gradient that has made one moment of another; what is no more than their rounding is zero."""
    if _is_adam(optimizer):  # after = before + (gradient - before) (1 - β1)
        share = 1 - optimizer.beta_1
        gradient, size = before + (after - before) / share, (np.abs(before) + np.abs(after)) / share
    else:  # after = momentum · before - rate · gradient
        decayed = optimizer.momentum * before
        gradient, size = (decayed - after) / rate, (np.abs(decayed) + np.abs(after)) / rate
    tiny = np.abs(gradient) <= 2 * np.finfo(np.float32).eps * size
    return np.where(tiny, np.float32(0), gradient.astype(np.float32))
