"""Tensors in nested containers: what models take and return, and batches of data loaders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.parameter import UninitializedParameter

__all__ = ["first_tensor", "has_values", "is_dtensor_type", "map_tensors", "output_tensor"]


def first_tensor(value: Any, *, floating: bool = False) -> Tensor | None:
    """Return the first tensor in what a module takes or returns, or None.

    Args:
        value: A tensor, or nested tuples, lists, mappings or objects with an attribute ``logits``.
        floating: Skip tensors that are not floating-point.
    """
    if isinstance(value, Tensor):
        return value if not floating or value.is_floating_point() else None
    logits = getattr(value, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(value, dict):
        parts: Iterable[Any] = value.values() if "logits" not in value else (value["logits"], *value.values())
    elif isinstance(value, tuple | list):
        parts = value
    elif hasattr(value, "values") and callable(value.values) and hasattr(value, "keys"):
        parts = value.values()
    else:
        return None
    for part in parts:
        tensor = first_tensor(part, floating=floating)
        if tensor is not None:
            return tensor
    return None


def output_tensor(value: Any) -> Tensor | None:
    """Return the first floating-point tensor in what a model returns, without a scalar loss before others; or None."""
    first = first_tensor(value, floating=True)
    if first is None or first.ndim or isinstance(value, Tensor):
        return first
    parts = list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else []
    rest = first_tensor([part for part in parts if part is not first], floating=True)
    return first if rest is None else rest


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to every tensor in nested tuples, lists and dicts; other values stay as they are."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(function, item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [map_tensors(function, item) for item in value]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


_DTENSOR_MODULES = ("torch.distributed.tensor", "torch.distributed._tensor")  # since PyTorch 2.5, and before


def is_dtensor_type(kind: type) -> bool:
    """Return whether a class is that of distributed tensors, `DTensor`, or derived from it; imports nothing."""
    for name in _DTENSOR_MODULES:
        base = getattr(sys.modules.get(name), "DTensor", None)
        if base is not None:
            return issubclass(kind, base)
    return False


def has_values(parameter: Tensor) -> bool:
    """Return whether a parameter has values: a lazy one has none yet, and one on the meta device never."""
    return not isinstance(parameter, UninitializedParameter) and parameter.device.type != "meta"
