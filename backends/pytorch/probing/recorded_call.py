"""The arguments of the first call of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.model.operations import undisturbed
from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook, is_compiled
from autotrainer.backends.pytorch.runtime.tensors import map_tensors

__all__ = ["Call", "FirstCall", "recorded_call"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class FirstCall:
    """Keeps copies of the arguments of the first call of a model that records gradients.

    Args:
        model: The model.

    Attributes:
        call: The arguments; None before the call.
        targets: The first targets; None if none were seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self.call: Call | None = None
        self.targets: Tensor | None = None
        self._handle: HookHandle | None = None
        if not is_compiled(model):
            self._handle = add_hook(model, self._record, before=True, with_kwargs=True)

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.call is None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.call = map_tensors(_copied, (args, dict(kwargs)))

    def take_targets(self, targets: Tensor) -> None:
        """Keep the first targets after the call."""
        if self.call is not None and self.targets is None:
            self.targets = _copied(targets)

    def remove(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def recorded_call(model: nn.Module, run: Callable[[], Any]) -> tuple[Call | None, Any]:
    """Return the arguments of the first call of a model while a function runs, and what it returns; nothing is changed.

    Args:
        model: The model.
        run: Calls it.
    """
    first = FirstCall(model)
    try:
        with undisturbed(model), torch.enable_grad():
            result = run()
    finally:
        first.remove()
    return first.call, result
