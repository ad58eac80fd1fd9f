"""Reinitializes the weights of layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotrainer.backends.pytorch.runtime.torch_private import ConvTranspose
from autotrainer.errors import ConfigError, nearest

__all__ = ["SCHEMES", "reinitialize", "scale_weights"]

SCHEMES: dict[str, Callable[[Tensor], Tensor]] = {
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "orthogonal": nn.init.orthogonal_,
}
"""Initializers by name: He 2015, LeCun 1998 (needed by self-normalizing networks), Glorot 2010, Saxe 2014."""


@torch.no_grad()
def reinitialize(module: nn.Module, scheme: str) -> None:
    """Reinitialize the weights of one layer in place: parameters stay the same objects.

    Biases become zero. Embeddings, normalization and attention layers get their default initialization; recurrent
    layers get orthogonal recurrent weights.

    Args:
        module: The layer.
        scheme: One of `SCHEMES`.

    Raises:
        ConfigError: If the scheme is unknown.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"unknown initializer {scheme!r}: {nearest(scheme, SCHEMES)}")
    initialize = SCHEMES[scheme]
    if isinstance(module, nn.MultiheadAttention):
        module._reset_parameters()
        return
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) or not _has_matrix(module):
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        return
    if parametrize.is_parametrized(module):
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            setattr(module, name, _initialized(initialize, getattr(module, name)))
    for name, parameter in module.named_parameters(recurse=False):
        recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase) and "weight_hh" in name
        if parameter.ndim < 2:
            parameter.zero_()
        elif recurrent:
            nn.init.orthogonal_(parameter)
        else:
            parameter.copy_(_initialized(initialize, parameter, transposed=isinstance(module, ConvTranspose)))


@torch.no_grad()
def scale_weights(module: nn.Module, factor: float) -> None:
    """Multiply weights and biases of one dense or convolutional layer by a factor, in place."""
    parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    for name in parametrized:
        setattr(module, name, factor * getattr(module, name))
    for parameter in module.parameters(recurse=False):
        parameter.mul_(factor)


def _initialized(initialize: Callable[[Tensor], Tensor], values: Tensor, *, transposed: bool = False) -> Tensor:
    """Return new values of the same shape; swaps the axes of transposed convolutions, so that fans are right."""
    new_values = torch.empty_like(values.transpose(0, 1) if transposed else values).contiguous()
    new_values = initialize(new_values)
    return new_values.transpose(0, 1) if transposed else new_values


def _has_matrix(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False)) or parametrize.is_parametrized(module)
