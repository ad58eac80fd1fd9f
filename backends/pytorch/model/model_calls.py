"""How a model is called on the inputs of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.layers.modules import Wrapper
from autotrainer.backends.pytorch.runtime.tensors import map_tensors

__all__ = ["call_arguments", "call_model", "with_gradients"]

_NO_GRAPH = "does not require grad"
"""What PyTorch says of a derivative of values that were computed without gradients."""


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, or with a tuple or list as positional arguments.

    A dict is passed as keyword arguments; as one argument if ``forward`` takes one and has no parameter of such a name.
    """
    args, kwargs = call_arguments(model, inputs)
    try:
        return model(*args, **kwargs)
    except RuntimeError as error:
        if torch.is_grad_enabled() or _NO_GRAPH not in str(error):
            raise
    return with_gradients(model, *args, **kwargs)  # it differentiates itself, as one that returns forces does


def with_gradients(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a function returns in an evaluation, without its graph; it may differentiate by its inputs."""
    with torch.enable_grad():
        return map_tensors(Tensor.detach, function(*args, **kwargs))


def call_arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments with which `call_model` calls a model."""
    if isinstance(inputs, Mapping):
        return ((inputs,), {}) if _takes_whole(model, inputs) else ((), dict(inputs))
    return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})


def _takes_whole(model: nn.Module, inputs: Mapping[Any, Any]) -> bool:
    """Return whether a dict is one argument of a model.

    If even one key is the name of a parameter, the others are too many: the error of the call itself says so best.
    """
    inner: Any = model
    while isinstance(inner, Wrapper | nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    inner = getattr(inner, "_orig_mod", inner)
    if not all(isinstance(name, str) for name in inputs):
        return True
    try:
        signature = inspect.signature(inner.forward)
    except (TypeError, ValueError):  # TorchScript has none
        return False
    if any(name in signature.parameters for name in inputs):
        return False
    return not _binds(signature, **inputs) and _binds(signature, inputs)


def _binds(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
