"""Copies of the user's learning-rate scheduler, one for each training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from autotrainer.adapter.callables import check_callable
from autotrainer.errors import ConfigError, InputError

__all__ = ["is_scheduler", "make_scheduler", "scheduler_maker", "step_scheduler"]

_GROUP_SETTINGS = ("max_lr", "min_lr", "max_momentum", "base_momentum")
"""Values that `OneCycleLR` and `CyclicLR` keep in the optimizer's parameter groups."""
_LISTS_BY_GROUP = ("base_lrs", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums", "_last_lr")
"""Attributes of schedulers with one value for each parameter group."""


def is_scheduler(value: Any) -> bool:
    """Return whether a value is a scheduler, not a class or function that makes one."""
    return not isinstance(value, type) and callable(getattr(value, "step", None))


def make_scheduler(make: Callable[[Optimizer], Any], optimizer: Optimizer) -> Any:
    """Return the scheduler that the user's callable makes.

    Raises:
        InputError: If it returns anything else.
    """
    scheduler = make(optimizer)
    if not is_scheduler(scheduler):
        raise InputError(f"scheduler(optimizer) must return a learning-rate scheduler, not {type(scheduler).__name__}")
    return scheduler


def step_scheduler(scheduler: Any, loss: float) -> None:
    """Step a scheduler at the end of an epoch; None does nothing."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    elif scheduler is not None:
        scheduler.step()


def scheduler_maker(scheduler: Any, optimizer: Optimizer) -> Callable[[Optimizer], Any] | None:
    """Return a function that makes an equal scheduler for another optimizer.

    Args:
        scheduler: Scheduler of the optimizer, in the state in which trainings start; callable(optimizer) that makes
            one; or None.
        optimizer: The user's optimizer.

    Returns:
        callable(optimizer), or None.

    Raises:
        InputError: If it is neither, or belongs to another optimizer.
    """
    if scheduler is None:
        return None
    if not is_scheduler(scheduler):
        check_callable("scheduler", scheduler, "optimizer")
        return scheduler  # type: ignore[no-any-return]
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InputError("the scheduler belongs to another optimizer: make it from the optimizer that is given")
    kind, optimizer_class = type(scheduler), type(optimizer)
    placeholder = object()  # stands for the optimizer wherever a chained scheduler refers to it
    state = copy.deepcopy(vars(scheduler), {id(optimizer): placeholder})
    rates = [(float(group["lr"]), float(group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]
    settings = [{name: group[name] for name in _GROUP_SETTINGS if name in group} for group in optimizer.param_groups]

    def make(other: Optimizer) -> Any:
        groups = other.param_groups
        if len(groups) != len(rates) != 1:
            raise ConfigError(
                f"the {kind.__name__} was made for {len(rates)} parameter groups, but this repair makes "
                f"{len(other.param_groups)}: give scheduler=callable(optimizer)"
            )
        copies = len(groups) if len(rates) == 1 else 1  # a single group may have been split since
        for group, (rate, initial), values in zip(groups, rates * copies, settings * copies, strict=True):
            if "initial_lr" in group:
                continue
            # An edit has set another rate: that is where the schedule starts, not where it stands now.
            group["initial_lr"] = float(group["lr"])
            group["lr"] = group["lr"] * (rate / initial if initial else 1.0)
            scale = group["initial_lr"] / initial if initial else 1.0
            group.update({name: value * scale if name.endswith("_lr") else value for name, value in values.items()})
        now = [group["lr"] for group in groups]
        LambdaLR(other, lambda _: 1.0, last_epoch=0)  # wraps the optimizer's step, which schedulers check
        for group, rate in zip(groups, now, strict=True):
            group["lr"] = rate
        copied = object.__new__(kind)
        vars(copied).update(copy.deepcopy(state, {id(placeholder): other}), optimizer=other)
        for part in _parts(copied):
            vars(part).update(
                {k: v * copies for k, v in vars(part).items() if k in _LISTS_BY_GROUP and isinstance(v, list)}
            )
            if hasattr(part, "base_lrs"):
                before, part.base_lrs = part.base_lrs, [float(group["initial_lr"]) for group in groups]
                if hasattr(part, "max_lrs"):  # of `CyclicLR`
                    scales = [new / old if old else 1.0 for new, old in zip(part.base_lrs, before, strict=True)]
                    part.max_lrs = [rate * scale for rate, scale in zip(part.max_lrs, scales, strict=True)]
            if hasattr(part, "_last_lr"):
                part._last_lr = [float(group["lr"]) for group in groups]
            if getattr(part, "cycle_momentum", False) and type(other) is not optimizer_class:
                part.cycle_momentum = False  # another optimizer may have no momentum, or another name for it
        return copied

    return make


def _parts(scheduler: Any) -> Iterator[Any]:
    """Yield a scheduler and those that it is composed of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)
