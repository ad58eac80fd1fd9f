"""Watches each PyTorch training of a script that does not use autotrainer.

A training is detected where the model of a new optimizer is first called, before its first step. Functions of PyTorch
are patched meanwhile: ``Optimizer.__init__`` shows that a training is about to begin, and ``Module.__call__``, patched
only until the first steps are taken, that it does. ``torch.autograd.backward`` and ``GradScaler.scale`` see the loss,
and the calls of modules show which one it comes from: one of PyTorch's losses, or one without parameters that returns
the loss. A training whose model is never called as a module is detected at the
end of the optimizer's first step, and watched from the next one on. An optimizer only knows its parameters: the model
is searched among all live objects.

Models of several optimizers whose losses depend on each other, as in adversarial training, are one training. Optimizers
of fastai, which are none of `torch.optim`, are recognized from the first backward pass on: see `ForeignOptimizers`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from autotrainer.adapter.backend import OpenWatch
from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.losses.loss_graph import loss_function, loss_parameters, outputs_and_targets
from autotrainer.backends.pytorch.losses.main_term import MainTerms, main_term
from autotrainer.backends.pytorch.model.describe import layers
from autotrainer.backends.pytorch.optim.missing_step import trainings_begin_with_a_step
from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.runtime.epoch_signals import add_listener, remove_listener
from autotrainer.backends.pytorch.runtime.hooks import never_compiled
from autotrainer.backends.pytorch.runtime.observation import is_transformed
from autotrainer.backends.pytorch.runtime.torch_private import Loss, step_post_hooks
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.scripts.find_model import ModelMatch, find_model
from autotrainer.backends.pytorch.scripts.foreign_optimizers import ForeignOptimizers
from autotrainer.backends.pytorch.watching.attach import observe
from autotrainer.backends.pytorch.watching.observer import TorchObserver
from autotrainer.monitoring.monitor import is_watched
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["watch_everything"]

_LossModuleCall = tuple[nn.Module, int, tuple[Any, Any, Any]]
"""A loss module, the id of its output, and its arguments, keyword arguments and output."""

_PATIENCE = 100
"""Steps to wait for an optimizer's first step: the optimizer may be for a later phase."""


@contextmanager
def watch_everything(open_watch: OpenWatch) -> Iterator[None]:
    """Watch each training in the block."""
    detector = _TrainingDetector(open_watch)
    add_listener(detector)  # so that loaders that start before their training is detected are known
    handle = register_optimizer_step_post_hook(never_compiled(detector.make_step_hook()))
    patches = [
        FunctionPatch(Optimizer, "__init__", detector.wrap_constructor),
        FunctionPatch(torch.autograd, "backward", detector.wrap_backward),
        FunctionPatch(Loss, "__call__", detector.wrap_loss_call),
        FunctionPatch(torch.amp.GradScaler, "scale", detector.wrap_scale),
    ]
    try:
        with trainings_begin_with_a_step():
            yield
    finally:
        handle.remove()
        remove_listener(detector)
        for each in patches:
            each.undo()
        detector.close()


class _Training:
    """A watched training.

    Attributes:
        monitor: Its monitor.
        parts: Ids of the parameters of each of its models.
        has_loss: Whether its loss module or function is known.
        adversarial: Whether its models have losses of their own, none of which measures progress.
        began: Number of the backward pass after which its latest optimizer joined; -1 if unknown.
    """

    def __init__(
        self, monitor: Recorder, model: nn.Module, optimizers: Sequence[Optimizer], parts: Sequence[nn.Module] = ()
    ) -> None:
        self.monitor = monitor
        self.parts = [{id(p) for p in part.parameters()} for part in parts or (model,)]
        self.has_loss = self.adversarial = False
        self.began = -1
        self._model, self._optimizers = weakref.ref(model), WeakSequence(optimizers)

    @property
    def model(self) -> nn.Module | None:
        """The model; None once nobody uses it."""
        return self._model()

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers that still exist."""
        return tuple(self._optimizers)

    @property
    def observer(self) -> TorchObserver | None:
        """The observer, while it watches."""
        observer = self.monitor.observer
        return observer if isinstance(observer, TorchObserver) and not self.monitor.closed else None


class _TrainingDetector:
    """Detects trainings: records losses and loss calls between steps, and registers optimizers at their first step.

    Losses are recorded as long as there is an optimizer that has not taken a step yet.
    """

    def __init__(self, open_watch: OpenWatch) -> None:
        self._open = open_watch
        self._registered: dict[int, weakref.ref[Optimizer]] = {}
        self._unstepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # has not taken a step yet
        self._unwatched: dict[int, tuple[weakref.ref[Optimizer], set[int]]] = {}  # waits for a call of its model
        self._unrelated: weakref.WeakValueDictionary[int, nn.Module] = (
            weakref.WeakValueDictionary()
        )  # called, not these
        self._call_patch: FunctionPatch | None = None
        self._trainings: list[_Training] = []
        self._records_losses = True
        self._patience = _PATIENCE
        self._loss: Tensor | None = None
        self._passes = 0  # backward passes recorded
        self._scaled: tuple[weakref.ref[Tensor], Tensor] | None = None
        self._loss_calls: dict[int, _LossModuleCall] = {}
        self._without_loss_module: list[Recorder] = []  # their losses are recorded here
        self._terms: WeakKeyDictionary[TorchObserver, MainTerms] = WeakKeyDictionary()
        self._foreign = ForeignOptimizers()
        self._failed = False

    def loader_started(self, loader: Any, iterator: Any) -> None:
        """Do nothing: see `EpochListener`."""

    def evaluation_began(self, module: nn.Module) -> None:
        """Do nothing: see `EpochListener`."""

    def close(self) -> None:
        """Undo what is patched for a while."""
        self._unwatched.clear()
        self._patch_calls()
        self._foreign.close()

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
                key, unwatched = id(optimizer), self._unwatched
                self._unrelated.clear()
                unwatched[key] = weakref.ref(optimizer, lambda _: unwatched.pop(key, None)), parameter_ids(optimizer)
                self._patch_calls()
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
                loss_calls[id(module)] = module, id(output), (args, kwargs, output)
            return output

        return __call__

    def wrap_module_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``Module.__call__`` that detects the first call of a model, and of a loss of the script's own."""
        loss_calls = self._loss_calls

        @passes_on
        def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - its name in tracebacks
            if not is_compiling() and self._unwatched and torch.is_grad_enabled():
                try:
                    self._inspect_call(module)
                except Exception as error:  # noqa: BLE001 - nothing may reach the script
                    self._unwatched.clear()
                    self._fail(error)
            output = original(module, *args, **kwargs)
            if not is_compiling() and self._records_losses and _may_be_loss(module, args, kwargs, output):
                loss_calls[id(module)] = module, id(output), (args, kwargs, output)
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
        self._foreign.look()
        if not isinstance(tensors, Tensor):
            return
        scaled, self._scaled = self._scaled, None
        loss = scaled[1] if scaled is not None and scaled[0]() is tensors else tensors
        if self._records_losses:
            self._loss = loss
            self._passes += 1
            self._inspect_loss(loss)
        for monitor in self._without_loss_module:
            observer = monitor.observer
            if isinstance(observer, TorchObserver) and observer.wants_loss and loss.ndim == 0:
                with monitor.guard("reading the loss"):
                    self._report_loss(observer, loss)

    def _report_loss(self, observer: TorchObserver, loss: Tensor) -> None:
        outputs, targets = outputs_and_targets(loss) if observer.sampling else (None, None)
        if observer.sampling and targets is None:
            term = self._terms.setdefault(observer, MainTerms()).read(loss, *observer.seen)
            if term is not None:
                observer.log_term(loss, term)
                return
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
                self._start_watching(optimizer, loss_parameters(self._loss))
            elif optimizer in self._unstepped:
                self._lead(optimizer)
            self._unstepped.discard(optimizer)
            self._unwatched.pop(id(optimizer), None)
            self._patience -= 1
            unregistered = len(self._unstepped) > 0 or id(optimizer) not in self._registered
            self._records_losses = self._patience > 0 and unregistered
            if self._patience <= 0:  # from now on, only the first step shows such a training
                self._unwatched.clear()
            self._patch_calls()
        finally:
            self._loss = self._scaled = None
            self._loss_calls.clear()

    def _inspect_call(self, module: nn.Module) -> None:
        """Start watching the training whose model contains a module that is being called."""
        if self._unrelated.get(id(module)) is module:
            return
        called = {id(p) for p in module.parameters()}
        if all(called.isdisjoint(parameters) for _, parameters in self._unwatched.values()):
            self._unrelated[id(module)] = module
            return
        for key, (reference, parameters) in list(self._unwatched.items()):
            optimizer = reference()
            if optimizer is None or is_transformed() or called.isdisjoint(parameters):
                continue
            self._unwatched.pop(key)
            if key not in self._registered:
                self._start_watching(optimizer, called, first_step=True)
            self._patch_calls()

    def _start_watching(self, optimizer: Optimizer, used: set[int], *, first_step: bool = False) -> None:
        """Watch the training of an optimizer.

        Args:
            optimizer: The optimizer.
            used: Ids of further parameters that its model may have.
            first_step: Whether its first step is still to come.
        """
        if _is_watched(optimizer):
            self._register(optimizer)
            return
        joined = self._joined(optimizer)
        match = joined or find_model(optimizer, used, self._registered.keys() - {id(optimizer)})
        if match is None:
            self._register(optimizer)
            return
        training = self._continued(match.model, match.optimizers)
        if training is None and not any(map(is_watched, match.containers)):
            monitor = self._open(match.model, match.optimizers, None)
            training = None if monitor is None else self._begun(_Training(monitor, match.model, match.optimizers))
        for each in match.optimizers:
            self._register(each)
        observer = None if training is None else training.observer
        if training is None or observer is None:
            return
        observer.leave_losses()
        self._trainings = [each for each in self._trainings if each.observer is not None and each is not training]
        self._trainings.append(training)
        if not first_step:
            observer.skip(0 if joined else 1)
            self._learn_loss(training, self._loss)
        elif type(match.model) is nn.ModuleList:
            observer.trace_parts()

    def _lead(self, optimizer: Optimizer) -> None:
        """Count the steps of an optimizer that has taken its first step, if that whose steps were to count has not.

        Others of the same parameters may never step, or in a later phase: they wait again for their first step.
        """
        for training in self._trainings:
            model, optimizers = training.model, training.optimizers
            if model is None or optimizer not in optimizers[1:] or optimizers[0] not in self._unstepped:
                continue
            own = parameter_ids(optimizer)
            partners = [each for each in optimizers if parameter_ids(each) != own]
            continued = self._continued(model, [optimizer, *partners])
            observer = None if continued is None else continued.observer
            if continued is None or observer is None:
                return
            for each in optimizers:
                if each is not optimizer and each not in partners:
                    self._registered.pop(id(each), None)
            self._trainings.append(continued)
            observer.skip(1)
            self._learn_loss(continued, self._loss)
            return

    def _continued(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> _Training | None:
        """Go on with the training of a model that gets another optimizer.

        Optimizers of other parameters that have stepped since the same backward pass stay: libraries make one for each
        parameter, at its first step.
        """
        for training in self._trainings:
            monitor = training.monitor
            names = [info.name for info in monitor.context.layers]
            if training.model is model and not monitor.closed and names == [info.name for info in layers(model)]:
                if monitor.observer is not None:
                    monitor.observer.close()
                planned = monitor.context.planned_epochs, monitor.context.planned_steps
                if training.began == self._passes:
                    own = {key for each in optimizers for key in parameter_ids(each)}
                    earlier = [each for each in training.optimizers if parameter_ids(each).isdisjoint(own)]
                    optimizers = [*optimizers, *earlier]
                monitor.attach(observe(model, optimizers, None, monitor, epochs=planned[0], steps=planned[1]))
                self._trainings.remove(training)
                return self._begun(_Training(monitor, model, optimizers))
        return None

    def _joined(self, optimizer: Optimizer) -> ModelMatch | None:
        """Return the model of an optimizer that steps after the backward pass after which its training was detected."""
        own = parameter_ids(optimizer)
        for training in self._trainings:
            model = training.model
            if model is not None and training.began == self._passes and own <= {id(p) for p in model.parameters()}:
                return ModelMatch(model, (optimizer,), ())
        return None

    def _begun(self, training: _Training) -> _Training:
        training.began = self._passes
        return training

    def _inspect_loss(self, loss: Tensor) -> None:
        """Learn from a loss which module or function it comes from, and which trainings belong together."""
        settled = len(self._trainings) == 1 and self._trainings[0].has_loss and len(self._trainings[0].parts) == 1
        if settled or not self._trainings:
            return
        used = loss_parameters(loss)
        trainings = [each for each in self._trainings if each.observer is not None]
        concerned = [each for each in trainings if any(not part.isdisjoint(used) for part in each.parts)]
        training = self._join(concerned) if len(concerned) > 1 else concerned[0] if concerned else None
        if training is None:
            return
        if any(part.isdisjoint(used) for part in training.parts):
            self._ignore_losses(training)
        elif not training.has_loss:
            self._learn_loss(training, loss)

    def _join(self, trainings: Sequence[_Training]) -> _Training | None:
        """Watch trainings whose losses depend on each other as one, from now on.

        A training that has gone on for a while was a different one, such as that of a teacher.
        """
        models = [each.model for each in trainings]
        optimizers = [optimizer for each in trainings for optimizer in each.optimizers]
        steps = trainings[0].monitor.history.step + 1
        if None in models or any(each.monitor.history.step >= _PATIENCE for each in trainings):
            return None
        self._trainings = [each for each in self._trainings if each not in trainings]
        joint = nn.ModuleList([model for model in models if model is not None])
        monitor = self._open(joint, optimizers, None, [each.monitor for each in trainings])
        self._without_loss_module[:] = [each for each in self._without_loss_module if not each.closed]
        if monitor is None:
            return None
        training = _Training(monitor, joint, optimizers, list(joint))
        self._trainings.append(training)
        observer = training.observer
        if observer is not None:
            observer.skip(steps)
            observer.trace_parts()
        if any(each.has_loss for each in trainings):
            self._ignore_losses(training)
        return training

    def _ignore_losses(self, training: _Training) -> None:
        observer = training.observer
        if observer is not None and not training.adversarial:
            training.has_loss = training.adversarial = True
            self._without_loss_module[:] = [e for e in self._without_loss_module if e is not training.monitor]
            observer.ignore_losses()
            logger.warning("several models have losses of their own: these do not measure progress and are not judged")

    def _learn_loss(self, training: _Training, loss: Tensor | None) -> None:
        """Have a training's observer follow its loss module, or else record its losses here."""
        observer = training.observer
        if observer is None:
            return
        training.has_loss = True
        call = self._loss_module(loss)
        if call is not None:
            observer.follow_loss(call[0], call[1])
            return
        function = None if loss is None else loss_function(loss)
        if function is None and loss is not None:
            with suppress(RuntimeError):  # the backward pass of a step that was taken has freed the graph
                term = main_term(loss, *observer.seen)
                function = None if term is None else term.function
        observer.follow_loss(function, None)
        self._without_loss_module[:] = [each for each in self._without_loss_module if not each.closed]
        self._without_loss_module.append(training.monitor)

    def _patch_calls(self) -> None:
        """Patch ``Module.__call__`` as long as an optimizer waits for a call of its model, or losses are recorded."""
        needed = bool(self._unwatched) or (self._records_losses and bool(self._unstepped))
        if needed and self._call_patch is None:
            self._call_patch = FunctionPatch(nn.Module, "__call__", self.wrap_module_call)
        elif not needed and self._call_patch is not None:
            self._call_patch.undo()
            self._call_patch = None

    def _register(self, optimizer: Optimizer) -> None:
        key, registered = id(optimizer), self._registered
        registered[key] = weakref.ref(optimizer, lambda gone: registered.pop(key, None))

    def _loss_module(self, loss: Tensor | None) -> tuple[nn.Module, tuple[Any, Any, Any]] | None:
        """Return the loss module that the loss comes from, if it is still alive, and its call.

        That is the one that returned the loss, of PyTorch if there is one, or else the only one.
        """
        loss_calls = [(weakref.ref(module), output, call) for module, output, call in self._loss_calls.values()]
        self._loss_calls.clear()
        for calls in ([each for each in loss_calls if each[1] == id(loss)], loss_calls):
            builtin = [each for each in calls if isinstance(each[0](), Loss)]
            candidates = builtin or calls
            if candidates and (len(candidates) == 1 or calls is not loss_calls):
                reference, _, call = candidates[-1]
                module = reference()
                return None if module is None else (module, call)
        return None

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            logger.warning("some PyTorch trainings are not watched; the script goes on: %r", error)


def _may_be_loss(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> bool:
    """Return whether a call may be that of a loss of the script's own: a scalar, from a module without parameters.

    A function of scalars alone is none: an activation that keeps a parameter positive, as a variance.
    """
    if not isinstance(output, Tensor) or output.ndim or not output.requires_grad:
        return False
    if isinstance(module, Loss) or next(module.parameters(), None) is not None:
        return False
    values = (*args, *kwargs.values())
    return not values or any(not isinstance(value, Tensor) or value.ndim for value in values)


def _is_watched(optimizer: Optimizer) -> bool:
    """Return whether autotrainer has hooks on an optimizer: the script watches it itself, or uses `Loop`."""
    return any(getattr(hook, "__module__", "").startswith("autotrainer.") for hook in step_post_hooks(optimizer))
