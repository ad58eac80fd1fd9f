"""Reduces tensors to statistics on their device; only `to_host` synchronizes with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotrainer.backends.pytorch.ranks.shards import whole_rows
from autotrainer.backends.pytorch.runtime.torch_private import foreach_difference, foreach_norm
from autotrainer.records.measurement import OUTPUT_COLUMNS, SATURATION_SLOPE, WITHOUT_UNITS
from autotrainer.records.signals import DORMANT, LAYER_COLUMNS, MAX_FEATURES, MAX_RANK, MAX_ROWS, MAX_VALUES, Floats

__all__ = [
    "ACTIVATION_COLUMNS",
    "activation_columns",
    "activation_numbers",
    "changes",
    "feature_rows",
    "input_rows",
    "joined",
    "nonzero_counts",
    "norms",
    "pieces",
    "row_count",
    "rows_of",
    "sampled_entries",
    "silent_units",
    "strided_entries",
    "to_host",
]

_MOST_DENSE = 4_000_000
"""Entries of sparse rows that may be made dense."""

_PIECE = 1 << 20
"""Entries that are converted at a time, and those that statistics of large activations are computed from, about."""
_FEWEST_ROWS = 64
"""Rows of a large activation that are read at least, as far as there are so many: its spread is that over samples."""

_HALF = (torch.float16, torch.bfloat16)

_SMALL = 1 << 14
"""Entries up to which those that are not zero are counted for many tensors in one call: slower for each entry."""

ACTIVATION_COLUMNS = tuple(LAYER_COLUMNS.index(name) for name in OUTPUT_COLUMNS if name != "dead_units")
"""Columns of the layer table that `activation_columns` returns, in its order."""
_NEVER_NAN = np.array([True, True, True, False, False, False])


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the L2 norm of each tensor, as scalars of type float32.

    Half precision is converted in pieces: never is there a second copy of all weights.
    """
    if not tensors:
        return []
    sources = [_real(t) for t in tensors]
    computed: list[Tensor] = [torch.empty(0)] * len(sources)
    exact = [i for i, t in enumerate(sources) if t.dtype not in _HALF]
    for batch in (exact, *_batches(sources, [i for i, t in enumerate(sources) if t.dtype in _HALF])):
        for i, norm in zip(batch, foreach_norm([_single(sources[i]) for i in batch]) if batch else (), strict=True):
            computed[i] = norm if norm.dtype is torch.float32 else norm.float()
    for i, tensor in enumerate(sources):
        if tensor.dtype in _HALF and tensor.numel() > _PIECE:
            parts = [torch.linalg.vector_norm(piece.float()) for piece in pieces(tensor)]
            computed[i] = torch.linalg.vector_norm(torch.stack(parts))
    return computed


def _batches(sources: Sequence[Tensor], indices: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of tensors that are converted together; without those that are too large for that."""
    batch, entries = list[int](), 0
    for i in indices:
        size = sources[i].numel()
        if size > _PIECE:
            continue
        if entries + size > _PIECE:
            yield batch
            batch, entries = [], 0
        batch.append(i)
        entries += size
    yield batch


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor in views of at most 2²⁰ entries, as far as its first axes allow, so that work on them is small."""
    if tensor.numel() <= _PIECE:
        yield tensor
    elif tensor.is_contiguous():
        yield from tensor.view(-1).split(_PIECE)  # type: ignore[no-untyped-call]
    else:
        rows = max(1, _PIECE // max(1, tensor[0].numel()))
        for part in tensor.split(rows):  # type: ignore[no-untyped-call]
            yield from part.unbind() if part.ndim > 1 and part.numel() > _PIECE and len(part) > 1 else (part,)


def _real(tensor: Tensor) -> Tensor:
    """Return a real tensor with the same nonzero entries: those of a sparse tensor alone; a view if it is dense."""
    tensor = tensor.detach()
    if tensor.dtype is torch.float32 and tensor.layout is torch.strided:  # nearly all tensors
        return tensor
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _single(tensor: Tensor) -> Tensor:
    """Return a tensor of at least single precision."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def nonzero_counts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the number of entries of each tensor that are not zero, as scalars."""
    sources = [_real(tensor) for tensor in tensors]
    small = [tensor for tensor in sources if tensor.numel() <= _SMALL and tensor.dtype is torch.float32]
    of_small = iter(foreach_norm(small, 0) if small else ())
    counts = []
    for tensor in sources:
        if tensor.numel() <= _SMALL and tensor.dtype is torch.float32:
            counts.append(next(of_small))
            continue
        parts = [torch.count_nonzero(piece) for piece in pieces(tensor)]
        counts.append(parts[0] if len(parts) == 1 else torch.stack(parts).sum())
    return counts


def sampled_entries(parameters: Sequence[Tensor], entries: Sequence[int]) -> list[Tensor]:
    """Return copies of evenly strided entries of each parameter.

    Args:
        parameters: The parameters.
        entries: How many entries of each to copy, at most.

    Returns:
        Flat tensors of at least single precision.
    """
    parts = strided_entries(parameters, entries)
    if len({(part.device, part.dtype) for part in parts}) == 1:
        return list(torch.split(torch.cat(parts), [part.numel() for part in parts]))
    return [part.clone() for part in parts]


def strided_entries(tensors: Sequence[Tensor], entries: Sequence[int]) -> list[Tensor]:
    """Return the same as `sampled_entries` for dense tensors, as views where possible."""
    parts = []
    for tensor, most in zip(tensors, entries, strict=True):
        size = tensor.numel()
        stride = math.ceil(size / max(most, 1)) or 1
        if size > _PIECE and stride > 1 and tensor.layout is torch.strided and not tensor.is_contiguous():
            indices = torch.arange(0, size, stride, device=tensor.device)  # a flat view would be a copy
            flat = tensor.detach()[torch.unravel_index(indices, tensor.shape)]
        else:
            flat = tensor.detach().reshape(-1)
            flat = flat if stride == 1 else flat[::stride]
        if flat.dtype is torch.float32 and flat.layout is torch.strided:  # nearly all tensors
            parts.append(flat)
            continue
        part = _single(_real(flat))
        parts.append(part if part.ndim == 1 else part.flatten())  # a complex entry becomes two
    return parts


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate flat tensors on the device of the first, in their common type."""
    device = parts[0].device
    return torch.cat([part if part.device == device else part.to(device) for part in parts])


def changes(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
    """Return the L2 norms of the differences, as scalars of type float32."""
    return norms(foreach_difference(after, before))


def activation_numbers(
    output: Tensor, activation: str | None, batch_axis: int = 0, channel_axis: int | None = None
) -> tuple[Tensor | None, ...]:
    """Reduce the output of a layer on its device to numbers that `activation_columns` takes.

    Args:
        output: Floating-point tensor with at least one entry.
        activation: Name of the activation that made it, if any.
        batch_axis: Axis of the samples.
        channel_axis: Axis of the units, as in `silent_units`, to count dormant ones; None not to count them.

    Returns:
        Scalars: mean of the absolute values, standard deviation, minimum, maximum, variance over samples, saturated
        share, dormant share. None for the variance of fewer than two samples, for the saturated share of an activation
        that is not bounded, and for the dormant one of none (see `signals.DORMANT`).
    """
    output = output.detach()
    low, high = torch.aminmax(output)  # of all entries, without a copy; NaN if there is one
    values = _single(_subset(output, batch_axis))
    size = values.abs()
    variance = mean = dormant = None
    if values.ndim > batch_axis and values.shape[batch_axis] > 1:
        variance = values.var(dim=batch_axis, unbiased=False).mean()
    flat = _saturated(values, size, activation)
    if channel_axis is not None and activation is not None and activation not in WITHOUT_UNITS:
        others = _other_axes(size, channel_axis)
        units = size.mean(dim=others) if others else size
        mean = units.mean()
        dormant = (units <= DORMANT * mean).float().mean()
    saturated = None if flat is None else flat.float().mean()
    return size.mean() if mean is None else mean, values.std(unbiased=False), low, high, variance, saturated, dormant


def activation_columns(numbers: Floats) -> Floats:
    """Return the `ACTIVATION_COLUMNS` of layers.

    Args:
        numbers: Shape (layers, 7): what `activation_numbers` has returned for each; NaN for None.

    Returns:
        Shape (layers, 6). Where an entry of an output is not finite, mean, deviation and maximum are infinite, the
        known dormant share, and what else is not finite: the rest may come from entries that are.
    """
    mean, deviation, low, high, variance, saturated, dormant = numbers.T
    with np.errstate(invalid="ignore"):
        spread = np.sqrt(variance)
    columns = np.stack([mean, deviation, np.maximum(np.abs(low), np.abs(high)), spread, saturated, dormant], axis=1)
    lost = ~np.isfinite(columns[:, [0, 2]]).all(axis=1)
    columns[lost] = np.where(_NEVER_NAN | ~np.isfinite(columns[lost]), np.inf, columns[lost])
    columns[lost, -1] = np.where(np.isnan(dormant[lost]), np.nan, np.inf)
    return columns


def _subset(output: Tensor, batch_axis: int) -> Tensor:
    """Return evenly strided samples and positions of a large output, with all of its units; a view."""
    excess = output.numel() / _PIECE
    if excess <= 1 or output.ndim < 2:
        return output
    channel = 1 if output.ndim > 3 else output.ndim - 1  # see `_other_axes`
    axes = [axis for axis in range(output.ndim) if axis != channel and axis != batch_axis]
    rows = output.shape[batch_axis] if batch_axis != channel else 1
    stride = max(1, min(math.ceil(excess), rows // _FEWEST_ROWS))
    strides = {batch_axis: stride}
    for axis in axes:
        left = excess / math.prod(strides.values())
        strides[axis] = max(1, min(math.ceil(left), output.shape[axis]))
    for axis, step in strides.items():
        if step > 1:
            output = output.movedim(axis, 0)[::step].movedim(0, axis)
    return output


def _saturated(values: Tensor, size: Tensor, activation: str | None) -> Tensor | None:
    """Return where the slope of a bounded activation is below 1e-3 of its maximum, computed from its output.

    The slopes are sigmoid y (1 - y), tanh 1 - y², softsign (1 - |y|)²; the hard variants have slope 0 at their bounds.
    """
    if activation == "sigmoid":
        return values * (1 - values) < SATURATION_SLOPE / 4
    if activation == "tanh":
        return 1 - values * values < SATURATION_SLOPE
    if activation == "softsign":
        return (1 - size) ** 2 < SATURATION_SLOPE
    if activation == "hard_sigmoid":
        return (values <= 0) | (values >= 1)
    if activation == "hard_tanh":
        return size >= 1
    return None


def silent_units(output: Tensor, channel_axis: int) -> Tensor:
    """Return for each unit whether it is zero for all samples and positions; boolean, shape (units,)."""
    others = _other_axes(output, channel_axis)
    values = output.detach()
    if not others:
        return torch.eq(values, 0)
    largest = torch.linalg.vector_norm(values, math.inf, dim=others)  # in one pass, without a mask of all entries
    return torch.eq(largest, 0)


def _other_axes(output: Tensor, channel_axis: int) -> list[int]:
    """Return all axes except that of the units."""
    axis = 1 if output.ndim > 3 or (channel_axis == 1 and output.ndim > 2) else output.ndim - 1
    return [i for i in range(output.ndim) if i != axis]


def row_count(*tensors: Tensor | None) -> int:
    """Return how many of the first rows of each tensor may be copied within the limits."""
    counts = [MAX_ROWS]
    for tensor in tensors:
        if tensor is not None and tensor.ndim:
            rows = tensor.shape[0]
            counts.append(min(rows, MAX_VALUES // max(1, tensor.numel() // max(rows, 1))))
    return min(counts)


def rows_of(tensor: Tensor | None, rows: int) -> Tensor | None:
    """Return a copy of the first rows, or None if there are none, or this process has none of them whole."""
    tensor = whole_rows(tensor)
    if tensor is None or not rows or not tensor.ndim or tensor.is_complex():
        return None
    return _first_rows(tensor, rows).clone()


def _first_rows(tensor: Tensor, rows: int) -> Tensor:
    """Return the first rows of a tensor of any layout, dense; fewer if they would be too large."""
    tensor = tensor.detach()
    if tensor.layout is torch.strided:
        return tensor[:rows]
    sparse = tensor if tensor.layout is torch.sparse_coo else tensor.to_sparse_coo()  # type: ignore[no-untyped-call]
    rows = min(rows, len(sparse), max(1, _MOST_DENSE // max(1, math.prod(sparse.shape[1:]))))
    return sparse.narrow_copy(0, 0, rows).to_dense()


def input_rows(tensor: Tensor | None) -> Tensor | None:
    """Return a copy of the first rows of the input.

    Rank 2 keeps its rank: rows by at most 1024 evenly strided columns. A higher rank becomes (rows, 1, values)
    if its rows are too large to be copied whole.
    """
    if tensor is None or not tensor.ndim or not tensor.numel() or tensor.is_complex():
        return None
    rows = _first_rows(tensor, MAX_ROWS)
    if rows.ndim == 2 and rows.shape[1] > MAX_FEATURES:
        rows = rows[:, :: math.ceil(rows.shape[1] / MAX_FEATURES)]
    width = rows[0].numel()
    if rows.ndim > 2 and rows.numel() > MAX_VALUES:
        flat = rows[: max(1, MAX_VALUES // min(width, 4 * MAX_FEATURES))].flatten(1)
        rows = flat[:, :: math.ceil(width / (MAX_VALUES // len(flat)))].unsqueeze(1)
    return rows[: max(1, MAX_VALUES // max(1, rows[0].numel()))].clone()


def feature_rows(tensor: Tensor | None) -> Tensor | None:
    """Return a copy of evenly strided rows and features of a dense layer's input; None if there are none."""
    if tensor is None or tensor.ndim < 2 or not tensor.numel() or not tensor.is_floating_point():
        return None
    if tensor.layout is not torch.strided:
        return None
    rows = tensor.detach()
    rows = rows[..., :: math.ceil(rows.shape[-1] / MAX_RANK)].flatten(0, -2)
    return rows[:: math.ceil(len(rows) / MAX_RANK)].clone()


def to_host(tensor: Tensor | None) -> NDArray[Any] | None:
    """Return a tensor's values as NumPy; this waits for the device."""
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.dtype in (torch.bfloat16,) else tensor
    return tensor.resolve_neg().numpy()
