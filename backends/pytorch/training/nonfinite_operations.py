"""Finds the first operation of a training step that makes a non-finite value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autotrainer.backends.pytorch.runtime.torch_private import (
    TorchDispatchMode,
    current_autograd_node,
    is_mutating,
    sparse_values,
)
from autotrainer.records.nonfinite import Operation, is_intended, kind_of_operation

__all__ = ["NonfiniteOperations", "is_finite", "tensors_in"]


class NonfiniteOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, records the first operation of each part of a step that makes a non-finite value.

    Attributes:
        first: The first such operation of each part that has one: ``forward``, ``backward`` and ``update`` (the
            optimizer's step, or other code without gradients).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.first: dict[str, Operation] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and check its result."""
        kwargs = kwargs or {}
        node = current_autograd_node()
        part = "backward" if node is not None else "forward" if torch.is_grad_enabled() else "update"
        if part in self.first:
            return func(*args, **kwargs)
        name = str(func)
        mutates = is_mutating(func)
        arguments = [*tensors_in(args), *tensors_in(kwargs)]
        before = [t.clone() for t in arguments] if mutates else arguments
        result = func(*args, **kwargs)
        nonfinite = [t for t in tensors_in(result) if not is_finite(t)]
        if nonfinite:
            nan = any(_has_nan(t) for t in nonfinite)
            propagated = any(_has_nan(t) if nan else not is_finite(t) for t in before)
            if not propagated and not is_intended(name, nan=nan):
                self.first[part] = _operation(name, node, before, nonfinite[0], nan=nan)
        return result


def _operation(name: str, node: Any, arguments: Sequence[Tensor], nonfinite: Tensor, *, nan: bool) -> Operation:
    values = [t.double() for t in arguments if t.is_floating_point() and t.numel()]
    bounds = {
        "lowest": min((float(t.min()) for t in values), default=math.nan),
        "highest": max((float(t.max()) for t in values), default=math.nan),
        "nearest": float(values[-1].abs().min()) if values else math.nan,
    }
    backward = node is not None
    full_name = f"{name} {node.name()}" if backward else name
    kind = kind_of_operation(full_name, bounds, nan=nan, backward=backward)
    return Operation(kind, **bounds, half=nonfinite.dtype == torch.float16, backward=backward)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values of a tensor are finite; true for integers."""
    return _checkable_values(tensor) is None or bool(torch.isfinite(_checkable_values(tensor)).all())


def _has_nan(tensor: Tensor) -> bool:
    return _checkable_values(tensor) is not None and bool(torch.isnan(_checkable_values(tensor)).any())


def _checkable_values(tensor: Tensor) -> Any:
    """Return the values that can be checked, or None."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.device.type == "meta":
        return None
    return sparse_values(tensor) if tensor.is_sparse else tensor
