"""Sees the calls of a loss module, at the least cost to each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from torch import nn

from autotrainer.backends.pytorch.tracing import Hook

__all__ = ["OnLoss", "hook_loss"]

OnLoss = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
"""Called with the module, its arguments, its keyword arguments and what it returned."""


def hook_loss(loss_fn: nn.Module, model: nn.Module, seen: OnLoss) -> Callable[[], None]:
    """Have every call of a loss module seen.

    A module with a forward hook is called through a path that costs more than looking at the loss (0.5 % of a step of
    0.8 ms), so a plain function of its inputs gets its ``forward`` wrapped instead. A loss that has tensors or is part
    of a model may be replicated onto other devices, which a wrapped ``forward`` would not follow: it gets the hook.

    Args:
        loss_fn: The loss module.
        model: The model.
        seen: Called after each call.

    Returns:
        What takes it away again.
    """
    has_tensors = any(True for _ in chain(loss_fn.parameters(), loss_fn.buffers()))
    if has_tensors or "forward" in vars(loss_fn) or any(m is loss_fn for m in model.modules()):
        return loss_fn.register_forward_hook(Hook(seen), with_kwargs=True).remove
    wrapped = _SeenForward(loss_fn, seen)
    vars(loss_fn)["forward"] = wrapped

    def remove() -> None:
        wrapped.seen = _ignore
        if vars(loss_fn).get("forward") is wrapped:
            del vars(loss_fn)["forward"]

    return remove


def _ignore(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
    """See nothing: for a wrapper that somebody has wrapped again, and that can't be taken away."""


class _SeenForward:
    """Stands in for the ``forward`` of one module; copies and saved files of the module get its own one instead."""

    __slots__ = ("__wrapped__", "module", "seen")

    def __init__(self, module: nn.Module, seen: OnLoss) -> None:
        self.module = module
        self.seen = seen
        self.__wrapped__ = module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss and have it seen."""
        loss = self.__wrapped__(*args, **kwargs)
        self.seen(self.module, args, kwargs, loss)
        return loss

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, "forward")
