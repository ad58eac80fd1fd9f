"""Observing each operation of a step on Keras' torch engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchOperations"]


class TorchOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, reports each operation after it has run.

    Args:
        note: Called with its name (plus the name of the forward operation for a gradient), inputs and outputs.
    """

    def __init__(self, note: Callable[[str, Sequence[Any], Sequence[Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and report it."""
        kwargs = kwargs or {}
        inputs = list(_tensors((args, kwargs)))
        if func._schema.is_mutable:
            inputs = [tensor.clone() for tensor in inputs]
        result = func(*args, **kwargs)
        current = getattr(torch._C, "_current_autograd_node", None)  # a private name of PyTorch
        node = None if current is None else current()
        self._note(str(func) if node is None else f"{func} {node.name()}", inputs, list(_tensors(result)))
        return result


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
