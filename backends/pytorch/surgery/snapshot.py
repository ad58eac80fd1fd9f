"""Puts a model and its optimizer back as they were if applying a plan fails halfway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["unchanged_on_error"]


@contextmanager
def unchanged_on_error(model: nn.Module, optimizer: Optimizer | None) -> Iterator[None]:
    """Restore modules, parameters, buffers and optimizer, each the same object, if the block raises.

    The values of parameters and buffers are kept in main memory during the block.

    Args:
        model: The model.
        optimizer: Its optimizer, or None.
    """
    groups = [] if optimizer is None else optimizer.param_groups
    rates = (group["lr"] for group in groups if isinstance(group.get("lr"), Tensor))
    restore = [_attributes(module) for module in model.modules()]
    restore += [
        _values(tensor) for tensor in {id(t): t for t in chain(model.parameters(), model.buffers(), rates)}.values()
    ]
    if optimizer is not None:
        restore += [_attributes(optimizer), *map(_content, groups)]
    try:
        yield
    except BaseException:
        for step in restore:
            step()
        raise


def _attributes(owner: Any) -> Callable[[], None]:
    """Return a function that restores the class and the attributes of an object, and the content of containers."""
    kind, attributes = type(owner), dict(vars(owner))
    contents = [_content(value) for value in attributes.values() if isinstance(value, dict | list)]

    def restore() -> None:
        owner.__class__ = kind
        vars(owner).clear()
        vars(owner).update(attributes)
        for content in contents:
            content()

    return restore


def _content(container: Any) -> Callable[[], None]:
    saved = container.copy()

    def restore() -> None:
        container.clear()
        container.update(saved) if isinstance(container, dict) else container.extend(saved)

    return restore


def _values(tensor: Tensor) -> Callable[[], None]:
    if isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
        return lambda: None
    storage, gradient = tensor.data, tensor.grad
    values = None if tensor.is_meta else tensor.detach().to("cpu", copy=True)

    @torch.no_grad()
    def restore() -> None:
        tensor.data, tensor.grad = storage, gradient
        if values is not None:
            tensor.copy_(values)

    return restore
