"""Recognizes learning-rate schedulers whose rate is the same at every step, by their settings."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)

from autotrainer.adapter.callables import ignores_arguments

__all__ = ["is_constant"]


def is_constant(scheduler: Any) -> bool:
    """Return whether the rate never changes; False if that is unknown. No function of the user is called.

    Args:
        scheduler: A scheduler of PyTorch, or None.
    """
    parts = getattr(scheduler, "_schedulers", None)  # of `SequentialLR` and `ChainedScheduler`
    if parts:
        return all(map(is_constant, parts))
    if isinstance(scheduler, LambdaLR):  # as of `get_constant_schedule` of Hugging Face transformers
        return all(map(ignores_arguments, scheduler.lr_lambdas))
    if isinstance(scheduler, ConstantLR):
        return bool(scheduler.factor == 1 or scheduler.total_iters <= 0)
    if isinstance(scheduler, LinearLR):
        return bool(scheduler.start_factor == scheduler.end_factor)
    if isinstance(scheduler, StepLR | MultiStepLR | ExponentialLR):
        return bool(scheduler.gamma == 1)
    return isinstance(scheduler, PolynomialLR) and bool(scheduler.power == 0)
