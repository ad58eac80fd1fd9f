"""Draws the weights of layers anew."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotrainer.errors import ConfigError, nearest

__all__ = ["SCHEMES", "redraw", "scale_weights"]

SCHEMES: dict[str, Callable[[Tensor], Tensor]] = {
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "orthogonal": nn.init.orthogonal_,
}
"""Initializers by name: He 2015, LeCun 1998 (as self-normalizing networks need it), Glorot 2010, Saxe 2014."""


@torch.no_grad()
def redraw(module: nn.Module, scheme: str) -> None:
    """Draw the weights of one layer anew, in place: parameters stay the same objects.

    Biases become zero. Layers with an initialization of their own kind (embeddings, normalization, attention) get
    that; recurrent layers get orthogonal recurrent weights.

    Args:
        module: The layer.
        scheme: One of `SCHEMES`.

    Raises:
        ConfigError: If the scheme is unknown.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"unknown initializer {scheme!r}: {nearest(scheme, SCHEMES)}")
    draw = SCHEMES[scheme]
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
            setattr(module, name, _drawn(draw, getattr(module, name)))
    for name, parameter in module.named_parameters(recurse=False):
        recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase) and "weight_hh" in name
        if parameter.ndim < 2:
            parameter.zero_()
        elif recurrent:
            nn.init.orthogonal_(parameter)
        else:
            parameter.copy_(_drawn(draw, parameter, transposed=isinstance(module, nn.modules.conv._ConvTransposeNd)))


@torch.no_grad()
def scale_weights(module: nn.Module, factor: float) -> None:
    """Multiply weights and biases of one dense or convolutional layer by a factor, in place."""
    parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    for name in parametrized:
        setattr(module, name, factor * getattr(module, name))
    for parameter in module.parameters(recurse=False):
        parameter.mul_(factor)


def _drawn(draw: Callable[[Tensor], Tensor], like: Tensor, *, transposed: bool = False) -> Tensor:
    """Return new values of the same shape; fans of transposed convolutions are counted the right way round."""
    fresh = torch.empty_like(like.transpose(0, 1) if transposed else like).contiguous()
    fresh = draw(fresh)
    return fresh.transpose(0, 1) if transposed else fresh


def _has_matrix(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False)) or parametrize.is_parametrized(module)
