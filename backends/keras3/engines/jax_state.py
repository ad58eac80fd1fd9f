"""Reading the variables of a model while the JAX engine trains it.

There the variables hold no values: weights and the optimizer's state are passed from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

__all__ = ["readable_variables"]


@contextmanager
def readable_variables(model: Any, values: Any) -> Iterator[bool]:
    """Let the variables of a model be read with the values that its training step takes or returns.

    Args:
        model: The model, compiled.
        values: Arguments or result of its train function.

    Yields:
        Whether the variables can be read: always on the other engines.
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
    pairs = [pair for group, held in zip(variables, state, strict=False) for pair in zip(group, held, strict=True)]
    with keras.StatelessScope(state_mapping=pairs):
        yield True


def _holds(state: Any, variables: Sequence[Sequence[Any]]) -> bool:
    """Return whether a value is the state of a training step: values of these variables and of the metrics."""
    if not isinstance(state, tuple) or len(state) != len(variables) + 1:
        return False
    return all(isinstance(s, list | tuple) and len(s) == len(v) for s, v in zip(state, variables, strict=False))
