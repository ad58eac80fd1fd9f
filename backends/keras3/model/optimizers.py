"""The optimizers of a model, and what they are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

__all__ = ["applies", "given_gradients", "gradients_and_variables", "kept", "optimizers_of"]


def optimizers_of(model: Any) -> list[Any]:
    """Return the optimizers of a model: the compiled one, and those that it (or a model in it) keeps for its steps."""
    models = [layer for layer in model._flatten_layers() if isinstance(layer, keras.Model)]
    found = [
        value
        for owner in models
        for attribute in vars(owner).values()
        for value in _members(attribute)
        if isinstance(value, keras.optimizers.Optimizer)
    ]
    return list({id(o): o for o in found}.values())


def _members(attribute: Any) -> Iterable[Any]:
    if isinstance(attribute, Mapping):
        return list(attribute.values())
    return attribute if isinstance(attribute, list | tuple) else (attribute,)


def applies() -> str:
    """Return the name of the method by which an optimizer takes gradients in a training step."""
    return "stateless_apply" if keras.backend.backend() == "jax" else "apply"


def given_gradients(
    optimizer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the gradients that a call of this method gives an optimizer, and their variables."""
    known = getattr(getattr(optimizer, "inner_optimizer", optimizer), "_trainable_variables", ())
    if keras.backend.backend() == "jax":
        return dict(zip(("optimizer_variables", "grads"), args, strict=False), **kwargs)["grads"], known
    gradients, variables = gradients_and_variables((*args, *kwargs.values()))
    return gradients, known if variables is None else variables


def gradients_and_variables(values: Iterable[Any]) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Return the gradients and the variables (None: those of the optimizer) among the arguments of an ``apply``.

    Told by what they are: an optimizer of the user's own may call them what it likes, and take more besides.
    """
    lists = [value for value in values if isinstance(value, list | tuple)]
    variables = next((v for v in lists if v and all(hasattr(each, "assign") for each in v)), None)
    return next((v for v in lists if v is not variables), ()), variables


def kept(value: Any) -> Any:
    """Return a list in place of an iterator, which could be read only once."""
    return list(value) if isinstance(value, Iterator) else value
