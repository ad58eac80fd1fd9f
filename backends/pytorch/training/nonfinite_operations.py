"""Seeing each operation of a training step, and the first that makes a value that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from autotrainer.records.nonfinite import Operation, is_intended, kind_of_operation

__all__ = ["NonfiniteOperations", "finite", "tensors"]


class NonfiniteOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, keeps the first operation that makes a value that is not finite, of each part of a step.

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
        """Run an operation, and look at what it makes."""
        kwargs = kwargs or {}
        node = _node()
        part = "backward" if node is not None else "forward" if torch.is_grad_enabled() else "update"
        if part in self.first:
            return func(*args, **kwargs)
        name = str(func)
        changes = func._schema.is_mutable
        given = [*tensors(args), *tensors(kwargs)]
        before = [t.clone() for t in given] if changes else given
        result = func(*args, **kwargs)
        made = [t for t in tensors(result) if not finite(t)]
        if made:
            nan = any(_has_nan(t) for t in made)
            handed_on = any(_has_nan(t) if nan else not finite(t) for t in before)
            if not handed_on and not is_intended(name, nan=nan):
                self.first[part] = _operation(name, node, before, made[0], nan=nan)
        return result


def _operation(name: str, node: Any, given: Sequence[Tensor], made: Tensor, *, nan: bool) -> Operation:
    values = [t.double() for t in given if t.is_floating_point() and t.numel()]
    numbers = {
        "lowest": min((float(t.min()) for t in values), default=math.nan),
        "highest": max((float(t.max()) for t in values), default=math.nan),
        "nearest": float(values[-1].abs().min()) if values else math.nan,
    }
    backward = node is not None
    full = f"{name} {node.name()}" if backward else name
    kind = kind_of_operation(full, numbers, nan=nan, backward=backward)
    return Operation(kind, **numbers, half=made.dtype == torch.float16, backward=backward)


def _node() -> Any:
    """Return the node of the graph whose gradient is being computed, or None (a private name of PyTorch)."""
    current = getattr(torch._C, "_current_autograd_node", None)
    return None if current is None else current()


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def finite(tensor: Tensor) -> bool:
    """Say whether all values of a tensor are finite; there are no others than floating ones that are not."""
    return _dense(tensor) is None or bool(torch.isfinite(_dense(tensor)).all())


def _has_nan(tensor: Tensor) -> bool:
    return _dense(tensor) is not None and bool(torch.isnan(_dense(tensor)).any())


def _dense(tensor: Tensor) -> Any:
    """Return the values that can be looked at, or None."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.device.type == "meta":
        return None
    return tensor._values() if tensor.is_sparse else tensor
