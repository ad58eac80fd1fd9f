"""Sees which tensors a backward pass starts from, in the whole process.

``torch.autograd.backward``, which `Tensor.backward` calls, is patched while there is a listener.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import ref

import torch
from torch.compiler import is_compiling

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["BackwardListener", "add_backward_listener", "remove_backward_listener"]


class BackwardListener(Protocol):
    """Receives the signal; it must not raise."""

    def backward_started(self, tensors: Any) -> None:
        """A backward pass from these tensors is about to begin."""


_listeners: tuple[ref[Any], ...] = ()  # read in each step: a tuple takes a fraction of the time of a WeakSet
_patches: list[FunctionPatch] = []


def add_backward_listener(listener: BackwardListener) -> None:
    """Send the signal to a listener, as long as it exists or until `remove_backward_listener`."""
    _keep(listener)
    if not _patches:
        _patches.append(FunctionPatch(torch.autograd, "backward", _wrap_backward))


def remove_backward_listener(listener: BackwardListener) -> None:
    """Send a listener no more signals; nothing happens if it gets none."""
    _keep(None, without=listener)


def _keep(added: BackwardListener | None, without: BackwardListener | None = None) -> None:
    """Keep the listeners that still exist, with one more or without one; restore the function if there is none."""
    global _listeners
    others = [each for each in _listeners if each() not in (None, added, without)]
    _listeners = tuple(others if added is None else [*others, ref(added)])
    if not _listeners:
        for patch in _patches:
            patch.undo()
        _patches.clear()


def _wrap_backward(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_compiling():
            for each in _listeners:
                listener = each()
                if listener is None:
                    _keep(None)
                else:
                    listener.backward_started(tensors)
        return original(tensors, *args, **kwargs)

    return backward
