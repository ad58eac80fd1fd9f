"""The user's learning-rate scheduler, for each training anew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from autotrainer.errors import ConfigError, InputError

__all__ = ["scheduler_maker", "step_scheduler"]

_OWN = ("max_lr", "min_lr", "max_momentum", "base_momentum")
"""What `OneCycleLR` and `CyclicLR` keep in the optimizer's parameter groups."""
_LISTS = ("base_lrs", "lr_lambdas", "min_lrs", "max_lrs", "base_momentums", "max_momentums", "_last_lr")
"""What schedulers keep for each group."""


def step_scheduler(scheduler: Any, loss: float) -> None:
    """Step a scheduler at the end of an epoch; None does nothing."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)
    elif scheduler is not None:
        scheduler.step()


def scheduler_maker(scheduler: Any, optimizer: Optimizer) -> Callable[[Optimizer], Any] | None:
    """Return what makes such a scheduler for another optimizer.

    Args:
        scheduler: Scheduler of the optimizer, in the state in which trainings start; callable(optimizer) that makes
            one; or None.
        optimizer: The optimizer as given.

    Returns:
        callable(optimizer), or None.

    Raises:
        InputError: If it is neither, or belongs to another optimizer.
    """
    if scheduler is None:
        return None
    if not hasattr(scheduler, "step"):
        if not callable(scheduler):
            raise InputError(f"scheduler must be a scheduler or callable(optimizer), not {type(scheduler).__name__}")
        return scheduler  # type: ignore[no-any-return]
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InputError("the scheduler belongs to another optimizer than the one given")
    kind, of = type(scheduler), type(optimizer)
    place = object()  # stands for the optimizer, wherever a schedule made of others holds it
    state = copy.deepcopy(vars(scheduler), {id(optimizer): place})
    rates = [(float(group["lr"]), float(group.get("initial_lr", group["lr"]))) for group in optimizer.param_groups]
    own = [{name: group[name] for name in _OWN if name in group} for group in optimizer.param_groups]

    def make(other: Optimizer) -> Any:
        groups = other.param_groups
        if len(groups) != len(rates) != 1:
            raise ConfigError(
                f"the {kind.__name__} given was made for {len(rates)} parameter groups, and this repair makes "
                f"{len(other.param_groups)}: give scheduler=callable(optimizer)"
            )
        copies = len(groups) if len(rates) == 1 else 1  # the one group given may be several now
        for group, (rate, initial), values in zip(groups, rates * copies, own * copies, strict=True):
            if "initial_lr" in group:
                continue
            # An edit has set another rate: where the schedule starts, not where it is.
            group["initial_lr"] = float(group["lr"])
            group["lr"] = group["lr"] * (rate / initial if initial else 1.0)
            scale = group["initial_lr"] / initial if initial else 1.0
            group.update({name: value * scale if name.endswith("_lr") else value for name, value in values.items()})
        now = [group["lr"] for group in groups]
        LambdaLR(other, lambda _: 1.0, last_epoch=0)  # marks the optimizer's step, which a scheduler looks for
        for group, rate in zip(groups, now, strict=True):
            group["lr"] = rate
        made = object.__new__(kind)
        vars(made).update(copy.deepcopy(state, {id(place): other}), optimizer=other)
        for one in _all(made):
            vars(one).update({k: v * copies for k, v in vars(one).items() if k in _LISTS and isinstance(v, list)})
            if hasattr(one, "base_lrs"):
                before, one.base_lrs = one.base_lrs, [float(group["initial_lr"]) for group in groups]
                if hasattr(one, "max_lrs"):  # of `CyclicLR`
                    scales = [new / old if old else 1.0 for new, old in zip(one.base_lrs, before, strict=True)]
                    one.max_lrs = [rate * scale for rate, scale in zip(one.max_lrs, scales, strict=True)]
            if hasattr(one, "_last_lr"):
                one._last_lr = [float(group["lr"]) for group in groups]
            if getattr(one, "cycle_momentum", False) and type(other) is not of:
                one.cycle_momentum = False  # another optimizer may have none, or call it otherwise
        return made

    return make


def _all(scheduler: Any) -> Iterator[Any]:
    """Yield a scheduler and those that it is made of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _all(part)
