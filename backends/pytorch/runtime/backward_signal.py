"""Sees which tensors a backward pass starts from, in the whole process.

``torch.autograd.backward``, which `Tensor.backward` calls, is patched while there is a listener.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch.compiler import is_compiling

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["BackwardListener", "add_backward_listener", "remove_backward_listener"]


class BackwardListener(Protocol):
    """Receives the signal; it must not raise."""

    def backward_started(self, tensors: Any) -> None:
        """A backward pass from these tensors is about to begin."""


_listeners: WeakSet[Any] = WeakSet()
_patches: list[FunctionPatch] = []


def add_backward_listener(listener: BackwardListener) -> None:
    """Send the signal to a listener, as long as it exists or until `remove_backward_listener`."""
    _listeners.add(listener)
    if not _patches:
        _patches.append(FunctionPatch(torch.autograd, "backward", _wrap_backward))


def remove_backward_listener(listener: BackwardListener) -> None:
    """Send a listener no more signals; nothing happens if it gets none."""
    _listeners.discard(listener)
    if not _listeners:
        for patch in _patches:
            patch.undo()
        _patches.clear()


def _wrap_backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_compiling():
            for listener in tuple(_listeners):
                listener.backward_started(tensors)
        return original(tensors, *args, **kwargs)

    return backward
