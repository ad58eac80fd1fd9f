"""Sees where data loaders start and where models are put into evaluation mode, in the whole process.

Both happen about once an epoch. Two methods of PyTorch are patched while there is a listener.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet, ref

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.utils.data import DataLoader

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["EpochListener", "add_listener", "batch_sizes", "going_on", "remove_listener"]

_MOST_STARTS = 8
"""Latest passes of loaders that `going_on` may return."""


class EpochListener(Protocol):
    """Receives the signals; it must not raise."""

    def loader_started(self, loader: Any, iterator: Any) -> None:
        """A loader begins to deliver batches."""

    def evaluation_began(self, module: nn.Module) -> None:
        """A module was put into evaluation mode."""


_listeners: WeakSet[Any] = WeakSet()
_patches: list[FunctionPatch] = []
_starts: deque[tuple[ref[Any], ref[Any], int | None]] = deque(maxlen=_MOST_STARTS)


def add_listener(listener: EpochListener) -> None:
    """Send the signals to a listener, as long as it exists or until `remove_listener`."""
    _listeners.add(listener)
    if not _patches:
        _patches.extend(
            [FunctionPatch(DataLoader, "__iter__", _wrap_loader), FunctionPatch(nn.Module, "train", _wrap_mode)]
        )


def remove_listener(listener: EpochListener) -> None:
    """Send a listener no more signals."""
    _listeners.discard(listener)
    if not _listeners:
        for patch in _patches:
            patch.undo()
        _patches.clear()
        _starts.clear()


def going_on() -> list[tuple[Any, Any]]:
    """Return passes of loaders that have not ended, as far as there was a listener at their start.

    Returns:
        Pairs of the loader, None if nobody else uses it, and its iterator.
    """
    return [(loader(), iterator()) for loader, iterator, _ in _starts if iterator() is not None]


def batch_sizes() -> set[int | None]:
    """Return the batch sizes of the loaders of these passes; None for one without any."""
    return {size for _, iterator, size in _starts if iterator() is not None}


def _wrap_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def __iter__(loader: Any) -> Any:  # noqa: N807 - its name in tracebacks
        iterator = original(loader)
        if torch.is_grad_enabled():
            with suppress(Exception):  # an iterator without weak references
                _starts.append((ref(loader), ref(iterator), getattr(loader, "batch_size", None)))
        for listener in list(_listeners):
            with suppress(Exception):
                listener.loader_started(loader, iterator)
        return iterator

    return __iter__


def _wrap_mode(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def train(module: nn.Module, mode: bool = True) -> Any:
        result = original(module, mode)
        # Libraries put each module of a model into training mode in every step.
        if not mode and not is_compiling():
            for listener in list(_listeners):
                with suppress(Exception):
                    listener.evaluation_began(module)
        return result

    return train
