"""Gradient clipping: in managed trainings, and before each optimizer step of the user's own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from autotrainer.edits import ClipGradients

__all__ = ["clip", "clip_before_steps"]


def clip(parameters: Iterable[nn.Parameter], edit: ClipGradients) -> None:
    """Clip the gradients of parameters in place."""
    if edit.kind == "norm":
        nn.utils.clip_grad_norm_(parameters, edit.limit)
    else:
        nn.utils.clip_grad_value_(parameters, edit.limit)


def clip_before_steps(optimizer: Optimizer, edit: ClipGradients) -> RemovableHandle:
    """Clip before each step of an optimizer; if the step takes a closure, after each call of the closure."""

    def clip_all() -> None:
        clip([p for group in optimizer.param_groups for p in group["params"]], edit)

    def before(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        closure: Callable[[], Any] | None = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            clip_all()
            return None

        def clipped() -> Any:
            loss = closure()
            clip_all()
            return loss

        return args[:1], {**kwargs, "closure": clipped}

    return optimizer.register_step_pre_hook(before)
