"""Finds the learning-rate scheduler of an optimizer, and reads how far it is and for how many steps it is made."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable
from typing import Any
from weakref import ref

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LambdaLR, LinearLR, LRScheduler

from autotrainer.backends.pytorch.optim.constant_schedules import is_constant
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.runtime.wrappers import unwrap_optimizer

__all__ = ["ScheduleState"]

_LENGTHS = ("total_steps", "total_iters", "T_max")
"""Attributes of schedulers that hold their length: `OneCycleLR`, `PolynomialLR` and `LinearLR`, `CosineAnnealingLR`."""

_MOST_WRAPPERS = 4
"""Wrappers of an optimizer whose schedulers are looked for, at most: of accelerate, and of a data-parallel strategy."""

_KEYWORD = "num_training_steps"
"""Argument of functions for `LambdaLR` that holds the length of a schedule, as in Hugging Face transformers."""


class ScheduleState:
    """The learning-rate scheduler of an optimizer, which holds no reference to it.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = WeakSequence([optimizer])
        self._scheduler: ref[LRScheduler] | None = None

    def find(self) -> None:
        """Look for the scheduler among all objects, unless it is found; takes a second for ten million of them.

        Variables of the calling code are not read: Python keeps a copy of them, and of what they hold, in each frame.
        """
        if self._current is not None:
            return
        optimizer = self._optimizer.first
        objects = _owners(optimizer)
        wrappers = [each for each in objects if isinstance(each, Optimizer) and each is not optimizer]
        for wrapper in wrappers[:_MOST_WRAPPERS]:
            if unwrap_optimizer(wrapper) is optimizer:
                objects += _owners(wrapper)
        self._keep(objects)

    @property
    def steps(self) -> float:
        """Steps that the scheduler has taken; NaN if it is unknown."""
        parts = [self._current, *getattr(self._current, "_schedulers", ())]  # `ChainedScheduler` has no count itself
        return next((float(each.last_epoch) for each in parts if hasattr(each, "last_epoch")), math.nan)

    @property
    def name(self) -> str:
        """Class of the scheduler; empty if it is unknown."""
        return "" if self._current is None else type(self._current).__name__

    @property
    def constant(self) -> bool:
        """Whether the rate stays the same for as long as the scheduler is stepped, by its settings."""
        return is_constant(self._current)

    @property
    def length(self) -> int | None:
        """Steps of the scheduler until its rate no longer changes, or begins again; None if unknown or unbounded."""
        scheduler = self._current
        parts = [scheduler] if scheduler is not None else []
        before = 0
        milestones = getattr(scheduler, "_milestones", None)  # of `SequentialLR`
        if milestones:
            parts, before = list(getattr(scheduler, "_schedulers", ()))[-1:], int(milestones[-1])
        lengths = [length for part in parts if (length := _length(part)) is not None]
        return before + lengths[0] if lengths else None

    @property
    def _current(self) -> LRScheduler | None:
        return None if self._scheduler is None else self._scheduler()

    def _keep(self, objects: Iterable[Any]) -> None:
        """Keep the one scheduler of the optimizer among objects; parts of another one do not count."""
        optimizer = self._optimizer.first
        unique = {id(each): each for each in objects if issubclass(type(each), LRScheduler)}
        schedulers = [e for e in unique.values() if unwrap_optimizer(getattr(e, "optimizer", None)) is optimizer]
        parts = {id(part) for each in schedulers for part in getattr(each, "_schedulers", ())}
        whole = [each for each in schedulers if id(each) not in parts]
        if len(whole) == 1:
            self._scheduler = ref(whole[0])


def _owners(optimizer: Optimizer) -> list[Any]:
    """Return the objects that have an optimizer as their attribute, among others that refer to it."""
    objects = gc.get_referrers(optimizer)
    attributes = [each for each in objects if type(each) is dict and each.get("optimizer") is optimizer]
    return [*objects, *(gc.get_referrers(*attributes) if attributes else ())]


def _length(scheduler: Any) -> int | None:
    if isinstance(scheduler, LinearLR) and scheduler.end_factor >= scheduler.start_factor:
        return None  # a warm-up
    if isinstance(scheduler, ConstantLR) and scheduler.factor <= 1:
        return None  # the same, in one step
    if isinstance(scheduler, LambdaLR):
        keywords = [getattr(function, "keywords", None) or {} for function in scheduler.lr_lambdas]
        lengths = [each[_KEYWORD] for each in keywords if isinstance(each.get(_KEYWORD), int)]
    else:
        values = (getattr(scheduler, name, None) for name in _LENGTHS)
        lengths = [int(value) for value in values if isinstance(value, int | float) and value > 0]
    return lengths[0] if lengths else None
