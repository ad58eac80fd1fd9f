"""Compares the backward pass of a `torch.autograd.Function` with differences of its forward pass, in double precision.

What is meant to have another gradient is left alone: functions that return an input unchanged (gradient reversal,
clipping or scaling), that are locally constant (rounding, signs: straight-through and surrogate gradients), or that
return no gradient. So are those that draw random numbers, or can't compute in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["MOST_VALUES", "BackwardError", "backward_error"]

MOST_VALUES = 1 << 22
"""Values of the inputs, at most."""
_DIRECTIONS = 5
_STEP = 1e-6
"""Half a difference of an input ÷ its largest value: the square of it, and rounding ÷ it, are far below `_WRONG`."""
_MOVES = 0.1
"""Outputs that change with a small change of an input ÷ those that change with a large one, from which the function is
not locally constant."""
_WRONG = 0.01
"""Relative difference of two derivatives from which they are not the same: without kinks, it is about 1e-9."""
_SMOOTH = 1e-3
"""Relative difference of two difference quotients up to which there is no kink between them."""


@dataclass(frozen=True, slots=True)
class BackwardError:
    """How a backward pass differs from the derivative.

    Attributes:
        error: Relative difference of derivatives in a direction: median over directions.
        ratio: Derivative by the backward pass ÷ that by differences, if it is the same in all directions; else NaN.
    """

    error: float
    ratio: float


def backward_error(function: Any, arguments: Sequence[Any], trained: Sequence[bool]) -> BackwardError | None:
    """Return how the backward pass of a function is wrong, for the first input for which it is; None if for none.

    Args:
        function: Subclass of `torch.autograd.Function`.
        arguments: Arguments of a call.
        trained: Which of them require gradients.
    """
    values = [a.detach().double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]
    tensors = [value for value in values if isinstance(value, Tensor)]
    if sum(tensor.numel() for tensor in tensors) > MOST_VALUES or any(t.is_complex() for t in tensors):
        return None
    call = _Call(function, values)
    outputs = call.outputs()
    same = all(map(torch.equal, outputs, call.outputs()))
    if not outputs or not same or not all(bool(torch.isfinite(output).all()) for output in outputs):
        return None
    if any(o.shape == t.shape and torch.allclose(o, t.to(o.dtype)) for o in outputs for t in tensors):
        return None
    places = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.is_floating_point() and v.numel()]
    if any(_is_locally_constant(call, place, outputs) for place in places):
        return None
    errors = (_error_at(call, place, outputs) for place in places if trained[place])
    return next((error for error in errors if error is not None), None)


class _Call:
    """Calls of a function with other values in place of one of its inputs."""

    def __init__(self, function: Any, values: Sequence[Any]) -> None:
        self._function, self.values = function, values
        self._random = torch.Generator().manual_seed(0)

    def outputs(self, place: int = -1, value: Tensor | None = None, *, gradients: bool = False) -> list[Tensor]:
        """Return the floating-point outputs; ``value`` stands for the input at a place."""
        given = [each.clone() if isinstance(each, Tensor) else each for each in self.values]
        if value is not None:
            given[place] = value if gradients else value.clone()
        with torch.set_grad_enabled(gradients):
            result = self._function.apply(*given)
        parts = result if isinstance(result, tuple | list) else (result,)
        return [part for part in parts if isinstance(part, Tensor) and part.dtype == torch.float64]

    def direction(self, like: Tensor) -> Tensor:
        """Return a random direction."""
        return torch.randn(like.shape, generator=self._random, dtype=torch.float64).to(like.device)


def _scale(value: Tensor) -> float:
    return max(float(value.abs().max()), _STEP)


def _moves(call: _Call, place: int, change: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return which outputs change with an input."""
    return [a != b for a, b in zip(call.outputs(place, call.values[place] + change), outputs, strict=True)]


def _is_locally_constant(call: _Call, place: int, outputs: Sequence[Tensor]) -> bool:
    """Return whether the outputs change with an input, but hardly with a small change of it."""
    value, into = call.values[place], call.direction(call.values[place])
    small, large = (
        sum(int(each.sum()) for each in _moves(call, place, size * _scale(value) * into, outputs))
        for size in (_STEP, 1.0)
    )
    return small < _MOVES * large


def _error_at(call: _Call, place: int, outputs: Sequence[Tensor]) -> BackwardError | None:
    value = call.values[place]
    step = _STEP * _scale(value)
    pairs = []
    for _ in range(_DIRECTIONS):
        into, weights = call.direction(value), _weights(call, place, outputs)
        moved = _moves(call, place, step * into, outputs)
        weights = [weight * each for weight, each in zip(weights, moved, strict=True)]
        if len(outputs) == 1 and outputs[0].shape == value.shape:
            into = into * moved[0]  # saturated entries may have a gradient on purpose
        near, far = (_difference(call, place, into * step * size, weights) / (step * size) for size in (1, 2))
        leaf = value.clone().requires_grad_()
        with torch.enable_grad():
            tracked = call.outputs(place, leaf, gradients=True)
            total = torch.stack([(o * w).sum() for o, w in zip(tracked, weights, strict=True)]).sum()
        gradient = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
        if gradient is None or not bool(gradient.any()):
            return None
        if abs(near - far) <= _SMOOTH * abs(near):
            pairs.append((near, float((gradient.double() * into).sum())))
    errors = [abs(a - b) / max(abs(a), abs(b)) for a, b in pairs if a]
    if len(errors) < _DIRECTIONS - 1 or not sum(error > _WRONG for error in errors) >= len(errors) - 1:
        return None
    ratios = [b / a for a, b in pairs if a]
    constant = max(ratios) - min(ratios) <= _SMOOTH * abs(ratios[0])
    return BackwardError(sorted(errors)[len(errors) // 2], ratios[0] if constant else math.nan)


def _weights(call: _Call, place: int, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return random weights of the outputs; 0 for one whose gradient the backward pass does not take.

    A single number is a loss, whose own gradient is 1.
    """
    if len(outputs) == 1:
        return [torch.ones_like(outputs[0]) if outputs[0].numel() == 1 else call.direction(outputs[0])]
    weights = []
    for i, output in enumerate(outputs):
        leaf = call.values[place].clone().requires_grad_()
        with torch.enable_grad():
            tracked = call.outputs(place, leaf, gradients=True)[i]
        weight = call.direction(output)
        taken = None
        if tracked.requires_grad:
            taken = torch.autograd.grad(tracked, leaf, weight, allow_unused=True)[0]
        weights.append(torch.zeros_like(weight) if taken is None or not bool(taken.any()) else weight)
    return weights


def _difference(call: _Call, place: int, change: Tensor, weights: Sequence[Tensor]) -> float:
    """Return half the difference of the weighted outputs for an input changed in both directions."""
    value = call.values[place]
    above, below = (call.outputs(place, value + sign * change) for sign in (1, -1))
    total = [((a - b) * w).sum() for a, b, w in zip(above, below, weights, strict=True)]
    return float(torch.stack(total).sum()) / 2
