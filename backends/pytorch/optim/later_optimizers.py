"""Notices optimizers that are created during a training for the same parameters, and take over its steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet, ref

from torch.compiler import is_compiling
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.runtime.hooks import never_compiled
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["LaterOptimizers"]


class Owner(Protocol):
    """Owns a `LaterOptimizers`."""

    @property
    def steps(self) -> int:
        """Steps of the watched optimizer."""

    def later_step(self) -> None:
        """A later optimizer has taken a step."""


_listeners: WeakSet[LaterOptimizers] = WeakSet()
_patches: list[FunctionPatch] = []


class LaterOptimizers:
    """Counts the steps of optimizers that are created after the watched ones for the same parameters.

    The constructor of all optimizers is patched while there is such an object; the latest of these optimizers has a
    hook on its steps. That hook keeps the owner alive, as the watched optimizers may go when they are replaced. Steps
    of the watched optimizers take no time for it.

    Args:
        optimizers: The watched optimizers.
        owner: Owns this object, and is told of each step of a later optimizer.
    """

    def __init__(self, optimizers: tuple[Optimizer, ...], owner: Owner) -> None:
        self._parameters = set[int]().union(*(parameter_ids(each) for each in optimizers))
        self._owner, self._has_stepped, self._remembers = ref(owner), False, False
        self._steps_before = 0  # steps of the watched optimizer before the latest step of a later one
        self._handle: RemovableHandle | None = None
        self.optimizers = 0
        """Later optimizers that have taken a step, and have a memory to lose."""
        self.steps = 0
        """Their steps."""

    def attach(self) -> None:
        """Begin to notice optimizers."""
        _listeners.add(self)
        if not _patches:
            _patches.append(FunctionPatch(Optimizer, "__init__", _wrap_constructor))

    def detach(self) -> None:
        """Notice no more optimizers, and remove the hook."""
        _listeners.discard(self)
        self._remove_hook()
        if not _listeners:
            for patch in _patches:
                patch.undo()
            _patches.clear()

    def created(self, optimizer: Optimizer) -> None:
        """An optimizer was created."""
        owner = self._owner()
        if owner is None or self._parameters.isdisjoint(parameter_ids(optimizer)):
            return

        def after_step(*_: object) -> None:
            self._stepped(owner)

        handle = optimizer.register_step_post_hook(never_compiled(after_step))
        self._remove_hook()
        self._handle, self._has_stepped, self._steps_before = handle, False, owner.steps
        plain = all(group.get("momentum") == 0 for group in optimizer.param_groups)
        self._remembers = not (isinstance(optimizer, SGD) and plain)

    @property
    def facts(self) -> dict[str, float]:
        """The facts about these optimizers; none if there are none."""
        return {"later_optimizers": float(self.optimizers), "later_steps": float(self.steps)} if self.steps else {}

    def _stepped(self, owner: Owner) -> None:
        before, self._steps_before = self._steps_before, owner.steps
        if self._steps_before > before:
            return  # it is wrapped around the watched one, or takes turns with it
        self.optimizers += self._remembers and not self._has_stepped
        self._has_stepped = True
        self.steps += 1
        owner.later_step()

    def _remove_hook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None


def _wrap_constructor(original: Callable[..., Any]) -> Callable[..., Any]:
    @passes_on
    def __init__(optimizer: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name in tracebacks
        original(optimizer, *args, **kwargs)
        if not is_compiling():
            for listener in list(_listeners):
                with suppress(Exception):  # parameters of an unusual kind
                    listener.created(optimizer)

    return __init__
