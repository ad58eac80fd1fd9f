"""Watches each PyTorch training of a script that knows nothing of it.

A training is met at the end of an optimizer's first step, and watched from the next one on. Four functions of PyTorch
are exchanged meanwhile: ``torch.autograd.backward`` and ``GradScaler.scale`` see the loss, the calls of PyTorch's
losses show which module it comes from, and the optimizers' constructor tells when that is worth noting. Hooks on all
modules would show the model too, but make each of them slower, and `torch.compile` compiles anew when they come and
go: so the model is looked for among the objects that live.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from autotrainer.adapter.backend import OpenWatch
from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.runtime.hooks import never_compiled
from autotrainer.backends.pytorch.scripts.find_model import find_model
from autotrainer.backends.pytorch.scripts.loss_graph import leaves, loss_function, outputs_and_targets
from autotrainer.backends.pytorch.watching.observer import TorchObserver
from autotrainer.monitoring.monitor import is_watched

__all__ = ["watch_everything"]

logger = logging.getLogger("autotrainer")

_PATIENCE = 100
"""Steps for which an optimizer's first one is waited for: it may be meant for a later phase."""


@contextmanager
def watch_everything(open_watch: OpenWatch) -> Iterator[None]:
    """Watch each training in the block, from its second step on."""
    seen = _Seen(open_watch)
    handle = register_optimizer_step_post_hook(never_compiled(seen.steps()))
    exchanged = [
        _Exchange(Optimizer, "__init__", seen.making),
        _Exchange(torch.autograd, "backward", seen.backward),
        _Exchange(_Loss, "__call__", seen.calls),
        _Exchange(torch.amp.GradScaler, "scale", seen.scaling),
    ]
    try:
        yield
    finally:
        handle.remove()
        for one in exchanged:
            one.undo()


class _Exchange:
    """One function in the place of another.

    Args:
        owner: Class or module.
        name: Name of the function there.
        make: Makes the function from the one that is there.
    """

    def __init__(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        own = getattr(owner, name)
        self._owner, self._name = owner, name
        self._before = vars(owner).get(name)  # None where it is inherited
        self._put = functools.wraps(own)(make(own))
        setattr(owner, name, self._put)

    def undo(self) -> None:
        """Put back what was there, unless the script has put something else in its place."""
        if vars(self._owner).get(self._name) is not self._put:
            return
        if self._before is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


class _Seen:
    """What was seen since the last step of any optimizer, and which optimizers are known.

    Losses are noted as long as there is an optimizer that has not taken a step yet.
    """

    def __init__(self, open_watch: OpenWatch) -> None:
        self._open = open_watch
        self._known: dict[int, weakref.ref[Optimizer]] = {}
        self._made: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # not known yet
        self._noting = True
        self._patience = _PATIENCE
        self._loss: Tensor | None = None
        self._scaled: tuple[weakref.ref[Tensor], Tensor] | None = None
        self._calls: dict[int, tuple[nn.Module, int]] = {}
        self._told: list[tuple[Recorder, TorchObserver]] = []  # trainings whose loss is no module
        self._failed = False

    # -- what is exchanged ----------------------------------------------------------------------------------------
    # A compiled function holds the attributes that it reads as constants: it must not come to read any here.

    def making(self, own: Callable[..., None]) -> Callable[..., None]:
        """Return ``Optimizer.__init__`` that has losses noted until the first step."""

        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name in tracebacks
            own(optimizer, *args, **kwargs)
            try:
                self._made.add(optimizer)
                self._noting, self._patience = True, _PATIENCE
            except Exception as error:  # noqa: BLE001 - nothing may reach the script
                self._fail(error)

        return __init__

    def backward(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``torch.autograd.backward`` that sees the loss."""
        told = self._told

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and (self._noting or told):
                try:
                    self._see_backward(tensors)
                except Exception as error:  # noqa: BLE001 - nothing may reach the script; a `with` would take 1 µs
                    self._fail(error)
            return own(tensors, *args, **kwargs)

        return backward

    def calls(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``__call__`` of PyTorch's losses that notes the module and what it returned."""
        noted = self._calls

        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - its name in tracebacks
            output = own(module, *args, **kwargs)
            if not is_compiling() and self._noting and isinstance(output, Tensor) and output.requires_grad:
                noted[id(module)] = module, id(output)
            return output

        return __call__

    def scaling(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``GradScaler.scale`` that notes which loss it has scaled."""
        told = self._told

        def scale(scaler: Any, outputs: Any) -> Any:
            scaled = own(scaler, outputs)
            if not is_compiling() and (self._noting or told) and isinstance(outputs, Tensor):
                self._scaled = weakref.ref(scaled), outputs
            return scaled

        return scale

    def _see_backward(self, tensors: Any) -> None:
        if not isinstance(tensors, Tensor):
            return
        scaled, self._scaled = self._scaled, None
        loss = scaled[1] if scaled is not None and scaled[0]() is tensors else tensors
        if self._noting:
            self._loss = loss
        for monitor, observer in self._told:
            if observer.wants_loss and loss.ndim == 0:
                with monitor.guard("seeing the loss"):
                    outputs, targets = outputs_and_targets(loss) if observer.sampling else (None, None)
                    observer.log(loss=loss, outputs=outputs, targets=targets)

    # -- optimizers -----------------------------------------------------------------------------------------------

    def steps(self) -> Callable[..., None]:
        """Return what is to be called after each step of any optimizer."""
        known = self._known
        look = torch.compiler.disable(self._look)  # type: ignore[no-untyped-call]

        def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if self._noting or id(optimizer) not in known:
                try:
                    look(optimizer)
                except Exception as error:  # noqa: BLE001 - nothing may reach the script
                    self._fail(error)

        return after_step

    def _look(self, optimizer: Optimizer) -> None:
        """Meet an optimizer that is not known, and note no more losses where all are."""
        try:
            if not self._noting:  # it is a copy of another one: nothing has been noted of this step
                self._noting, self._patience = True, _PATIENCE
            elif id(optimizer) not in self._known:
                self._meet(optimizer)
            self._patience -= 1
            self._noting = self._patience > 0 and (len(self._made) > 0 or id(optimizer) not in self._known)
        finally:
            self._loss = self._scaled = None
            self._calls.clear()

    def _meet(self, optimizer: Optimizer) -> None:
        started = perf_counter()
        self._know(optimizer)
        if _is_watched(optimizer):
            return
        found = find_model(optimizer, leaves(self._loss), self._known.keys() - {id(optimizer)})
        if found is None or any(map(is_watched, found.around)):
            return
        module = self._loss_module()
        function = None if module is not None or self._loss is None else loss_function(self._loss)
        monitor = self._open(found.model, found.optimizers, module if module is not None else function)
        if monitor is None:
            return
        for one in found.optimizers:
            self._know(one)
        observer = monitor.observer
        assert isinstance(observer, TorchObserver)
        observer.skip(1)
        self._told[:] = [(m, o) for m, o in self._told if not m.closed]
        if module is None:
            self._told.append((monitor, observer))
        monitor.sampler.charge(perf_counter() - started)

    def _know(self, optimizer: Optimizer) -> None:
        key, known = id(optimizer), self._known
        known[key] = weakref.ref(optimizer, lambda gone: known.pop(key, None))
        self._made.discard(optimizer)

    def _loss_module(self) -> nn.Module | None:
        """Return the module that the loss comes from, if it is one of PyTorch's losses and lives on."""
        calls = [(weakref.ref(module), output) for module, output in self._calls.values()]
        self._calls.clear()
        exact = [module for module, output in calls if output == id(self._loss)]
        if exact:
            return exact[-1]()
        return calls[0][0]() if len(calls) == 1 else None

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            logger.warning("some trainings of PyTorch are not watched; the script goes on: %r", error)


def _is_watched(optimizer: Optimizer) -> bool:
    """Say whether autotrainer has hooks on an optimizer: the script watches it itself, or has `Loop` run it."""
    hooks = optimizer._optimizer_step_post_hooks.values()
    return any(getattr(hook, "__module__", "").startswith("autotrainer.") for hook in hooks)
