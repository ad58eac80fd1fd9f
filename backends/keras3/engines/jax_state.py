"""Reading the variables of a model while the JAX engine trains it.

There weights and the optimizer's state are not in the variables of the model but are carried from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

__all__ = ["carried"]


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
