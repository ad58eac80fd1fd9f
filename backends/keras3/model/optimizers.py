"""The optimizers of a model, and the gradients that they are called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from autotrainer.adapter.callables import check_callable
from autotrainer.edits.base import shorten
from autotrainer.errors import InputError

__all__ = [
    "apply_method_name",
    "as_optimizer",
    "gradients_and_variables",
    "gradients_of_call",
    "inner_optimizer",
    "materialize",
    "optimizers_of",
]


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer inside a loss-scaling one, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def as_optimizer(argument: Any) -> Any:
    """Return the optimizer for the user's argument: an object, a name, a configuration, a class or a callable.

    Raises:
        InputError: If it is not one of these.
    """
    optimizer = argument
    if isinstance(argument, str | Mapping):
        try:
            optimizer = keras.optimizers.get(argument)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"optimizer={shorten(argument)} is not a Keras optimizer: give an object or name of keras.optimizers"
            ) from error
    elif not isinstance(argument, keras.optimizers.Optimizer | keras.layers.Layer) and callable(argument):
        check_callable("optimizer", argument)
        optimizer = argument()
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InputError(
            f"optimizer must be a Keras optimizer, its name or a zero-argument callable that makes one, "
            f"not {shorten(argument)}"
        )
    return optimizer


def optimizers_of(model: Any) -> list[Any]:
    """Return the optimizers of a model: the compiled one, and those in attributes of it or of models inside it."""
    models = [layer for layer in model._flatten_layers() if isinstance(layer, keras.Model)]
    optimizers = [
        value
        for owner in models
        for attribute in vars(owner).values()
        for value in _members(attribute)
        if isinstance(value, keras.optimizers.Optimizer)
    ]
    return list({id(o): o for o in optimizers}.values())


def _members(attribute: Any) -> Iterable[Any]:
    if isinstance(attribute, Mapping):
        return list(attribute.values())
    return attribute if isinstance(attribute, list | tuple) else (attribute,)


def apply_method_name() -> str:
    """Return the name of the optimizer method that a training step calls with gradients."""
    return "stateless_apply" if keras.backend.backend() == "jax" else "apply"


def gradients_of_call(
    optimizer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the gradients of a call of `apply_method_name`, and their variables."""
    trainable = getattr(inner_optimizer(optimizer), "_trainable_variables", ())
    if keras.backend.backend() == "jax":
        return dict(zip(("optimizer_variables", "grads"), args, strict=False), **kwargs)["grads"], trainable
    gradients, variables = gradients_and_variables((*args, *kwargs.values()))
    return gradients, trainable if variables is None else variables


def gradients_and_variables(values: Iterable[Any]) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Return the gradients and the variables (None: those of the optimizer) among the arguments of an ``apply``.

    They are recognized by their types: a custom optimizer may name its arguments freely and take more of them.
    """
    lists = [value for value in values if isinstance(value, list | tuple)]
    variables = next((v for v in lists if v and all(hasattr(each, "assign") for each in v)), None)
    return next((v for v in lists if v is not variables), ()), variables


def materialize(value: Any) -> Any:
    """Return an iterator as a list, which can be read more than once; other values unchanged."""
    return list(value) if isinstance(value, Iterator) else value
