"""Observes the calls of a loss module, at a small part of what a forward hook costs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Protocol

from torch import nn

from autotrainer.backends.pytorch.runtime.hooks import Hook, add_forward_hook, copies_its_state
from autotrainer.backends.pytorch.runtime.torch_private import (
    call_implementation,
    compiled_call,
    drop_compiled_call,
    set_compiled_call,
)
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["RemovableHook", "hook_loss_calls"]

LossCallback = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
"""Takes the module, the arguments, the keyword arguments and the output of a call."""


class RemovableHook(Protocol):
    """A hook that can be removed."""

    def remove(self) -> None:
        """Remove the hook."""


def hook_loss_calls(loss: nn.Module, callback: LossCallback) -> RemovableHook:
    """Run a callback after each call of a loss module.

    A module with a forward hook is called through a slower path of `torch.nn.Module`: 5 µs of a step of 0.5 ms. So
    the attribute that `torch.nn.Module.compile` sets is used instead. Copies, saved files and TorchScript leave it
    out, unless a class has its own way of copying. A replica on another device keeps it, and computes the same only if
    the module holds no tensors: a module with tensors gets a forward hook.

    Args:
        loss: The loss module, not compiled.
        callback: Called after each call; must not raise.
    """
    holds_tensors = any(True for _ in chain(loss.parameters(), loss.buffers()))
    call = type(loss).__call__  # in a watched script, the losses of torch have one that wraps that of Module
    usual = getattr(call, "__wrapped__", call) is nn.Module.__call__ and copies_its_state(type(loss))
    if usual and not holds_tensors and compiled_call(loss) is None:
        return _CallReplacement(loss, callback)
    return add_forward_hook(loss, callback, with_kwargs=True)


class _CallReplacement:
    def __init__(self, loss: nn.Module, callback: LossCallback) -> None:
        implementation = call_implementation(loss)

        @passes_on
        def call(*args: Any, **kwargs: Any) -> Any:
            output = implementation(*args, **kwargs)
            callback(loss, args, kwargs, output)
            return output

        self._loss, self._call = loss, Hook(call)
        set_compiled_call(loss, self._call)

    def remove(self) -> None:
        drop_compiled_call(self._loss, self._call)
