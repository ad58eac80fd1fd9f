"""Has the optimizers of fastai, which are none of `torch.optim`, take their steps as optimizers of PyTorch do.

``fastai.optimizer.Optimizer.step`` is patched once fastai is imported. Each optimizer gets a stand-in of PyTorch's
class with the same parameters and the present settings; its step is that of the optimizer, and so runs the hooks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim import Optimizer

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["ForeignOptimizers"]

_NAMES = {
    "sgd_step": "SGD",
    "momentum_step": "SGD",
    "rms_prop_step": "RMSprop",
    "adam_step": "Adam",
    "radam_step": "RAdam",
}
"""Names of PyTorch's optimizers with the same step, by that of the last function that a step of fastai calls."""


class ForeignOptimizers:
    """Makes the stand-ins, until `close`."""

    def __init__(self) -> None:
        self._stand_ins: WeakKeyDictionary[Any, _StandIn | None] = WeakKeyDictionary()
        self._patch: FunctionPatch | None = None

    def look(self) -> None:
        """Patch fastai if it has been imported since."""
        module = sys.modules.get("fastai.optimizer") if self._patch is None else None
        kind = getattr(module, "Optimizer", None)
        if kind is not None:
            self._patch = FunctionPatch(kind, "step", self._wrap_step)

    def close(self) -> None:
        """Undo the patch."""
        if self._patch is not None:
            self._patch.undo()
            self._patch = None
        self._stand_ins.clear()

    def _wrap_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @passes_on
        def step(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            stand_in = self._updated(optimizer)
            if stand_in is None:
                return original(optimizer, *args, **kwargs)
            stand_in.take = partial(original, optimizer, *args, **kwargs)
            try:
                return stand_in.step()
            finally:
                stand_in.take = None

        return step

    def _updated(self, optimizer: Any) -> _StandIn | None:
        """Return the stand-in of an optimizer, with its present settings; None if it can't have one."""
        try:
            if optimizer not in self._stand_ins:
                self._stand_ins[optimizer] = None  # unless it can be made
                self._stand_ins[optimizer] = _kind(_name(optimizer))(_groups(optimizer))
            stand_in = self._stand_ins[optimizer]
            if stand_in is not None:
                for group, now in zip(stand_in.param_groups, _groups(optimizer), strict=True):
                    group.update(now)
        except Exception as error:  # noqa: BLE001 - nothing may reach the script
            self._stand_ins[optimizer] = None
            logger.warning("a training with an optimizer of fastai is not watched; the script goes on: %r", error)
        return self._stand_ins.get(optimizer)


class _StandIn(Optimizer):
    """An optimizer whose step is that of another one.

    Attributes:
        take: Takes that step; set for its duration, so that this does not keep the other one alive.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        self.take: Callable[[], Any] | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take the step."""
        return None if self.take is None else self.take()


@cache
def _kind(name: str) -> type[_StandIn]:
    """Return the class of stand-ins that is named as an optimizer of PyTorch."""
    return type(name, (_StandIn,), {})


def _name(optimizer: Any) -> str:
    functions = [getattr(getattr(each, "func", each), "__name__", "") for each in optimizer.cbs]
    name = _NAMES.get(functions[-1] if functions else "", type(optimizer).__name__)
    return "AdamW" if name == "Adam" and "weight_decay" in functions else name


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    """Return the parameter groups, with the names that PyTorch gives to settings."""
    groups = []
    for parameters, settings in zip(optimizer.param_lists, optimizer.hypers, strict=True):
        group = {"params": list(parameters), "lr": float(settings["lr"])}
        if _name(optimizer) == "SGD":
            group["momentum"] = float(settings.get("mom", 0.0))
        group["weight_decay"] = float(settings.get("wd", 0.0))
        groups.append(group)
    return groups
