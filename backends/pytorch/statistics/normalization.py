"""Statistics of normalization layers: the size of their output before scale and bias, and that of scale and bias."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.ranks.shards import local_part
from autotrainer.backends.pytorch.runtime.torch_private import BatchNorm, InstanceNorm
from autotrainer.records.measurement import normalizes_features
from autotrainer.records.signals import LAYER_COLUMNS, NORM_COLUMNS, NORM_GROUPS

__all__ = ["NORM_INDICES", "normalization_numbers"]

NORM_INDICES = tuple(LAYER_COLUMNS.index(name) for name in NORM_COLUMNS)
"""Columns of the layer table that `normalization_numbers` fills, in its order."""

_INEXACT = 0.03
"""Rounding error of the values before scale and bias, relative to 1, from which they are not measured."""

_SCALES, _BIASES = ("weight", "scale", "gamma", "g"), ("bias", "beta", "b")
"""Names of scale and bias in custom classes."""

_QUARTILE = 0.75

_FEATURE_NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()))
_FORWARDS = tuple(kind.forward for kind in _FEATURE_NORMS)
"""Of subclasses with another one, the axis is unknown: some of them take images."""


def normalization_numbers(module: nn.Module, output: Tensor) -> Tensor | None:
    """Return statistics of a normalization layer.

    Args:
        module: The layer, of PyTorch or of a custom class.
        output: Its output, a floating-point tensor with at least one entry.

    Returns:
        Shape (4,), float32: the `NORM_COLUMNS`, NaN where not measured. None without scale and bias.
    """
    scale, bias = _vector(module, _SCALES), _vector(module, _BIASES)
    if scale is None and bias is None:
        return None
    values = output.detach()
    best: Tensor | None = None
    for factor, groups in _arrangements(module, values, scale, bias):
        numbers = torch.stack((*groups, *_sizes(factor, bias, values.device)))
        if best is not None:  # of several ways to apply a scale, the one that fits
            numbers = torch.where(best[0].isnan() | (_misfit(numbers) < _misfit(best)), numbers, best)
        best = numbers
    if best is None:
        unknown = torch.full((2,), math.nan, device=values.device)
        best = torch.cat((unknown, torch.stack(_sizes(scale, bias, values.device))))
    return best


def _arrangements(
    module: nn.Module, values: Tensor, scale: Tensor | None, bias: Tensor | None
) -> Iterator[tuple[Tensor | None, tuple[Tensor, Tensor]]]:
    """Yield scales that the layer may apply, each with the first two of the `NORM_COLUMNS`."""
    if isinstance(module, InstanceNorm) and values.ndim == _single_sample_axes(module):
        values = values.unsqueeze(0)
    if isinstance(module, BatchNorm | InstanceNorm | nn.GroupNorm):
        if values.ndim > 2 or isinstance(module, BatchNorm):
            yield scale, _of_channels(module, values, scale, bias)
    elif type(module).forward in _FORWARDS:
        yield scale, _of_features(values, scale, bias, math.prod(module.normalized_shape))  # type: ignore[arg-type]
    elif isinstance(module, _FEATURE_NORMS) or normalizes_features(type(module).__name__):
        vector = scale if scale is not None else bias
        size = 0 if vector is None else vector.numel()
        for axis in (-1, 1):
            if values.ndim > (1 if axis == -1 else 2) and values.shape[axis] == size:
                for factor in (scale,) if scale is None else (scale, 1 + scale):
                    yield factor, _of_features(values.movedim(axis, -1), factor, bias, size)


def _single_sample_axes(module: nn.Module) -> int:
    """Return the number of axes of inputs without one of samples."""
    return next((n for n, kind in ((2, nn.InstanceNorm1d), (3, nn.InstanceNorm2d)) if isinstance(module, kind)), 4)


def _of_features(values: Tensor, scale: Tensor | None, bias: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """Measure groups of the last axes, of so many values."""
    rows = values.reshape(-1, size)
    rows = rows[:: math.ceil(len(rows) / NORM_GROUPS)]
    return _of_squares(_before_scale(rows, scale, bias, (size,)).square().mean(-1), _is_inexact(rows, scale, bias))


def _of_channels(module: nn.Module, values: Tensor, scale: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Measure channels over samples and positions, or over positions alone."""
    channels = values.shape[1] if values.ndim > 1 else len(values)
    if isinstance(module, BatchNorm):
        variance, mean = torch.var_mean(
            values.float(), [axis for axis in range(values.ndim) if axis != 1], correction=0
        )
        squares = variance + (mean if bias is None else mean - bias.float()).square()
        squares = squares if scale is None else squares / scale.float().square()
        rms, peak = _of_squares(squares, _is_inexact(values, scale, bias))
        alone = module.training or module.running_mean is None
        return rms, peak if alone and not isinstance(module, nn.SyncBatchNorm) else peak * math.nan
    values = values[: max(1, NORM_GROUPS // channels)]
    before = _before_scale(values.reshape(len(values), channels, -1), scale, bias, (channels, 1))
    groups = module.num_groups if isinstance(module, nn.GroupNorm) else channels
    before = before.reshape(len(values) * int(groups), -1)
    rms, peak = _of_squares(before.square().mean(-1), _is_inexact(values, scale, bias))
    running = isinstance(module, InstanceNorm) and module.running_mean is not None and not module.training
    return rms, peak * math.nan if running else peak


def _is_inexact(values: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return whether the values before scale and bias are unknown, as the type of the values is not precise enough."""
    if bias is None:
        return torch.zeros((), dtype=torch.bool, device=values.device)
    ratio = bias.float() if scale is None else bias.float().reshape(-1) / scale.float().reshape(-1)
    return ~(torch.finfo(values.dtype).eps * ratio.square().mean().sqrt() <= _INEXACT)


def _before_scale(values: Tensor, scale: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return values without scale and bias."""
    before = values.float() if bias is None else values.float() - bias.reshape(shape).float()
    return before if scale is None else before / scale.reshape(shape).float()


def _of_squares(squares: Tensor, inexact: Tensor) -> tuple[Tensor, Tensor]:
    """Return upper quartile and maximum of the root of the mean squares of groups."""
    sizes = squares.sqrt().sort().values
    unknown = torch.full((), math.nan, device=squares.device)
    quartile = sizes[int(_QUARTILE * (len(sizes) - 1))]
    return torch.where(inexact, unknown, quartile), torch.where(inexact, unknown, sizes[-1])


def _misfit(numbers: Tensor) -> Tensor:
    """Return how far the groups are from a root mean square of 1."""
    return numbers[0].log().abs() + (numbers[1] / numbers[0]).log()


def _sizes(scale: Tensor | None, bias: Tensor | None, device: torch.device) -> list[Tensor]:
    return [
        torch.full((), math.nan, device=device) if vector is None else vector.float().square().mean().sqrt()
        for vector in (scale, bias)
    ]


def _vector(module: nn.Module, names: tuple[str, ...]) -> Tensor | None:
    parameters = (module._parameters.get(name) for name in names)
    found = (parameter for parameter in parameters if parameter is not None and parameter.numel())
    return next((local_part(parameter.detach()) for parameter in found), None)
