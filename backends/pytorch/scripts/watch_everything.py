"""Watches each PyTorch training of a script that does not use autotrainer.

A training is detected at the end of an optimizer's first step, and watched from the next one on. Four functions of
PyTorch are patched meanwhile: ``torch.autograd.backward`` and ``GradScaler.scale`` see the loss, the calls of PyTorch's
losses show which module it comes from, and the optimizers' constructor shows when to record losses. Hooks on all
modules would find the model, too, but slow each of them down, and `torch.compile` recompiles when hooks change: so the
model is searched among all live objects.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from autotrainer.adapter.backend import OpenWatch
from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.runtime.hooks import never_compiled
from autotrainer.backends.pytorch.runtime.torch_private import Loss, step_post_hooks
from autotrainer.backends.pytorch.scripts.find_model import find_model
from autotrainer.backends.pytorch.scripts.loss_graph import loss_function, loss_parameters, outputs_and_targets
from autotrainer.backends.pytorch.watching.observer import TorchObserver
from autotrainer.monitoring.monitor import is_watched
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["watch_everything"]

_PATIENCE = 100
"""Steps to wait for an optimizer's first step: the optimizer may be for a later phase."""


@contextmanager
def watch_everything(open_watch: OpenWatch) -> Iterator[None]:
    """Watch each training in the block, from its second step on."""
    detector = _TrainingDetector(open_watch)
    handle = register_optimizer_step_post_hook(never_compiled(detector.make_step_hook()))
    patches = [
        _FunctionPatch(Optimizer, "__init__", detector.wrap_constructor),
        _FunctionPatch(torch.autograd, "backward", detector.wrap_backward),
        _FunctionPatch(Loss, "__call__", detector.wrap_loss_call),
        _FunctionPatch(torch.amp.GradScaler, "scale", detector.wrap_scale),
    ]
    try:
        yield
    finally:
        handle.remove()
        for each in patches:
            each.undo()


class _FunctionPatch:
    """Replaces a function until `undo`.

    Args:
        owner: Class or module of the function.
        name: Its name there.
        wrap: Makes the replacement from the original.
    """

    def __init__(self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        original = getattr(owner, name)
        self._owner, self._name = owner, name
        self._previous = vars(owner).get(name)  # None if inherited
        self._replacement = functools.wraps(original)(wrap(original))
        setattr(owner, name, self._replacement)

    def undo(self) -> None:
        """Restore the original, unless the script has replaced the function again."""
        if vars(self._owner).get(self._name) is not self._replacement:
            return
        if self._previous is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._previous)


class _TrainingDetector:
    """Detects trainings: records losses and loss calls between steps, and registers optimizers at their first step.

    Losses are recorded as long as there is an optimizer that has not taken a step yet.
    """

    def __init__(self, open_watch: OpenWatch) -> None:
        self._open = open_watch
        self._registered: dict[int, weakref.ref[Optimizer]] = {}
        self._unstepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # not registered yet
        self._records_losses = True
        self._patience = _PATIENCE
        self._loss: Tensor | None = None
        self._scaled: tuple[weakref.ref[Tensor], Tensor] | None = None
        self._loss_calls: dict[int, tuple[nn.Module, int]] = {}
        self._without_loss_module: list[Recorder] = []  # their losses are recorded here
        self._failed = False

    # -- patched functions ----------------------------------------------------------------------------------------
    # A compiled function keeps the attributes that it reads as constants: it must not read any here.

    def wrap_constructor(self, original: Callable[..., None]) -> Callable[..., None]:
        """Return an ``Optimizer.__init__`` that has losses recorded until the first step."""

        @passes_on
        def __init__(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name in tracebacks
            original(optimizer, *args, **kwargs)
            try:
                self._unstepped.add(optimizer)
                self._records_losses, self._patience = True, _PATIENCE
            except Exception as error:  # noqa: BLE001 - nothing may reach the script
                self._fail(error)

        return __init__

    def wrap_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``torch.autograd.backward`` that records the loss."""
        without_loss_module = self._without_loss_module

        @passes_on
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and (self._records_losses or without_loss_module):
                try:
                    self._record_backward(tensors)
                except Exception as error:  # noqa: BLE001 - nothing may reach the script; a `with` would take 1 µs
                    self._fail(error)
            return original(tensors, *args, **kwargs)

        return backward

    def wrap_loss_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``__call__`` of PyTorch's losses that records the module and the id of its output."""
        loss_calls = self._loss_calls

        @passes_on
        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - its name in tracebacks
            output = original(module, *args, **kwargs)
            if not is_compiling() and self._records_losses and isinstance(output, Tensor) and output.requires_grad:
                loss_calls[id(module)] = module, id(output)
            return output

        return __call__

    def wrap_scale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``GradScaler.scale`` that records which loss it has scaled."""
        without_loss_module = self._without_loss_module

        @passes_on
        def scale(scaler: Any, outputs: Any) -> Any:
            scaled = original(scaler, outputs)
            if not is_compiling() and (self._records_losses or without_loss_module) and isinstance(outputs, Tensor):
                self._scaled = weakref.ref(scaled), outputs
            return scaled

        return scale

    def _record_backward(self, tensors: Any) -> None:
        if not isinstance(tensors, Tensor):
            return
        scaled, self._scaled = self._scaled, None
        loss = scaled[1] if scaled is not None and scaled[0]() is tensors else tensors
        if self._records_losses:
            self._loss = loss
        for monitor in self._without_loss_module:
            observer = monitor.observer
            if isinstance(observer, TorchObserver) and observer.wants_loss and loss.ndim == 0:
                with monitor.guard("reading the loss"):
                    outputs, targets = outputs_and_targets(loss) if observer.sampling else (None, None)
                    observer.log(loss=loss, outputs=outputs, targets=targets)

    # -- optimizers -----------------------------------------------------------------------------------------------

    def make_step_hook(self) -> Callable[..., None]:
        """Return the hook that runs after each step of any optimizer."""
        registered = self._registered
        inspect_step = torch.compiler.disable(self._inspect_step)  # type: ignore[no-untyped-call]

        def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if self._records_losses or id(optimizer) not in registered:
                try:
                    inspect_step(optimizer)
                except Exception as error:  # noqa: BLE001 - nothing may reach the script
                    self._fail(error)

        return after_step

    def _inspect_step(self, optimizer: Optimizer) -> None:
        """Start watching the training of an unregistered optimizer; stop recording losses once all are registered."""
        try:
            if not self._records_losses:  # a copy of another optimizer: nothing was recorded in this step
                self._records_losses, self._patience = True, _PATIENCE
            elif id(optimizer) not in self._registered:
                self._start_watching(optimizer)
            self._patience -= 1
            unregistered = len(self._unstepped) > 0 or id(optimizer) not in self._registered
            self._records_losses = self._patience > 0 and unregistered
        finally:
            self._loss = self._scaled = None
            self._loss_calls.clear()

    def _start_watching(self, optimizer: Optimizer) -> None:
        started = perf_counter()
        self._register(optimizer)
        if _is_watched(optimizer):
            return
        match = find_model(optimizer, loss_parameters(self._loss), self._registered.keys() - {id(optimizer)})
        if match is None or any(map(is_watched, match.containers)):
            return
        module = self._loss_module()
        function = None if module is not None or self._loss is None else loss_function(self._loss)
        monitor = self._open(match.model, match.optimizers, module if module is not None else function)
        if monitor is None:
            return
        for each in match.optimizers:
            self._register(each)
        observer = monitor.observer
        assert isinstance(observer, TorchObserver)
        observer.skip(1)
        self._without_loss_module[:] = [each for each in self._without_loss_module if not each.closed]
        if module is None:
            self._without_loss_module.append(monitor)
        monitor.sampler.charge(perf_counter() - started)

    def _register(self, optimizer: Optimizer) -> None:
        key, registered = id(optimizer), self._registered
        registered[key] = weakref.ref(optimizer, lambda gone: registered.pop(key, None))
        self._unstepped.discard(optimizer)

    def _loss_module(self) -> nn.Module | None:
        """Return the module that the loss comes from, if it is one of PyTorch's losses and still alive."""
        loss_calls = [(weakref.ref(module), output) for module, output in self._loss_calls.values()]
        self._loss_calls.clear()
        returned_loss = [module for module, output in loss_calls if output == id(self._loss)]
        if returned_loss:
            return returned_loss[-1]()
        return loss_calls[0][0]() if len(loss_calls) == 1 else None

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            logger.warning("some PyTorch trainings are not watched; the script goes on: %r", error)


def _is_watched(optimizer: Optimizer) -> bool:
    """Return whether autotrainer has hooks on an optimizer: the script watches it itself, or uses `Loop`."""
    return any(getattr(hook, "__module__", "").startswith("autotrainer.") for hook in step_post_hooks(optimizer))
