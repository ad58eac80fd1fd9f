"""Watches a PyTorch training that the user runs, without changing it.

Between sampled steps two hooks remain: one on the loss module, which keeps a reference to the loss, and one on the
optimizer's step, which counts. A step is sampled from the end of the step before to its own end; only then does the
model have hooks, and only then is anything computed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from autotrainer.backends.pytorch.calls import LossCall, loss_of
from autotrainer.backends.pytorch.describe import layers, loss_info, optimizer_info
from autotrainer.backends.pytorch.evaluations import Evaluation
from autotrainer.backends.pytorch.stats import row_count, rows_of, to_host
from autotrainer.backends.pytorch.tables import LayerTable
from autotrainer.backends.pytorch.tracing import ForwardTracer, Hook, is_compiled
from autotrainer.backends.pytorch.weights import StepReading, owners
from autotrainer.errors import InputError
from autotrainer.monitor import Monitor
from autotrainer.signals import Observation
from autotrainer.task import TaskContext

__all__ = ["TorchObserver", "observe"]

logger = logging.getLogger("autotrainer")

_KEPT_LOSSES = 128
"""Losses of unsampled steps that are kept until the next sample: the latest ones."""


def observe(
    model: nn.Module,
    optimizer: Any,
    loss_fn: Any,
    monitor: Monitor,
    *,
    epochs: int | None = None,
    steps: int | None = None,
) -> TorchObserver:
    """Attach to a training.

    Args:
        model: The model.
        optimizer: Optimizer, or a sequence of optimizers: a step is one step of the first.
        loss_fn: Loss module, which is hooked; or a function or None, and `Monitor.log` tells the loss.
        monitor: Takes what is observed.
        epochs: Planned epochs, or None.
        steps: Planned steps, or None.

    Returns:
        The attached observer.

    Raises:
        InputError: If the objects are not what they should be or do not belong together.
    """
    optimizers = _checked(model, optimizer, loss_fn)
    context = TaskContext(
        framework="pytorch",
        engine="pytorch",
        loss=loss_info(loss_fn),
        optimizer=optimizer_info(optimizers[0]),
        layers=layers(model),
        planned_epochs=epochs,
        planned_steps=steps,
    )
    monitor.begin(context)
    observer = TorchObserver(model, optimizers, loss_fn, monitor, context)
    observer.attach()
    return observer


def _checked(model: Any, optimizer: Any, loss_fn: Any) -> tuple[Optimizer, ...]:
    """Return the optimizers.

    Raises:
        InputError: If the objects are not what they should be or do not belong together.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if optimizer is None:
        raise InputError("give the optimizer too: watch(model, optimizer, ...); its steps are what is counted")
    optimizers = tuple(optimizer) if isinstance(optimizer, Sequence | set) else (optimizer,)
    if not optimizers:
        raise InputError("optimizer is an empty sequence: give at least one torch.optim.Optimizer")
    own = {id(p) for p in model.parameters()}
    for one in optimizers:
        if not isinstance(one, Optimizer):
            raise InputError(f"optimizer must be a torch.optim.Optimizer or several, not {type(one).__name__}")
        if not any(id(p) in own for group in one.param_groups for p in group["params"]):
            raise InputError(
                f"{type(one).__name__} owns none of the parameters of {type(model).__name__}: "
                "build it from model.parameters() of the very model that is watched"
            )
    if loss_fn is not None and not callable(loss_fn):
        raise InputError(f"loss_fn must be a loss module, a callable or None, not {type(loss_fn).__name__}")
    return optimizers


class _Count:
    """What the two permanent hooks share: plain attributes, read and written at every step."""

    __slots__ = ("alert", "losses", "step", "wake")

    def __init__(self) -> None:
        self.step = 0
        """Steps done."""
        self.wake = 0
        """Number of steps done at which to look up."""
        self.alert = True
        """Whether the next training loss is more than a reference to be kept."""
        self.losses: deque[tuple[int, Tensor | float]] = deque(maxlen=_KEPT_LOSSES)


class TorchObserver:
    """Keeps the hooks of one watched training. Made by `observe`."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: tuple[Optimizer, ...],
        loss_fn: Any,
        monitor: Monitor,
        context: TaskContext,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._loss_fn = loss_fn
        self._monitor = monitor
        self._context = context
        self._count = _Count()
        self._compiled = is_compiled(model)
        self._tracer = ForwardTracer(model, self._fail)
        self._table = LayerTable(self._tracer)
        self._owners = owners(self._tracer.modules)
        self._evaluation = Evaluation(context.loss.reduction != "sum")
        self._closed = False
        self._handles: list[RemovableHandle] = []
        self._step_handles: list[RemovableHandle] = []
        self._readings: dict[int, StepReading] = {}
        self._sampling = False
        self._begun = False
        self._call: LossCall | None = None
        self._doubtful: LossCall | None = None
        self._seconds = 0.0
        self._trains_in_eval = False
        self._vector_loss = False
        self._user_ends_epochs = False
        self._ending = False
        self._epoch_start = 0
        self._epoch_end = -1

    # -- attach and detach ----------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put the permanent hooks in place and sample the first step if it is due."""
        if isinstance(self._loss_fn, nn.Module) and self._loss_fn is not self._model:
            if is_compiled(self._loss_fn):
                logger.warning("the loss is compiled and can't be seen: call monitor.log(loss=..., outputs=..., ...)")
            else:
                hook = Hook(self._loss_hook())
                self._handles.append(self._loss_fn.register_forward_hook(hook, with_kwargs=True))
        if self._compiled:
            logger.warning("the model is compiled: its activations are not measured, everything else is")
        self._handles.append(self._optimizers[0].register_step_post_hook(self._step_hook()))
        self._look_up(0)

    def close(self) -> None:
        """Remove every hook and drop every reference to the user's objects."""
        if self._closed:
            return
        self._detach()
        self._monitor.advance(self._count.step - 1)
        if self._evaluation and not self._user_ends_epochs:
            self._end_epoch()
        self._count.losses.clear()
        self._call = self._doubtful = None
        del self._model, self._optimizers, self._loss_fn, self._tracer, self._table, self._owners

    def _detach(self) -> None:
        self._closed = True
        self._close_step()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _fail(self, error: Exception) -> None:
        """Report what went wrong and stop watching; the training goes on."""
        self._monitor.fail("watching the PyTorch training", error)
        self._detach()

    # -- the two permanent hooks ----------------------------------------------------------------------------------

    def _loss_hook(self) -> Callable[..., None]:
        count, model, seen = self._count, self._model, self._see_loss

        def on_loss(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
            try:
                if not count.alert and loss.requires_grad and model.training:
                    count.losses.append((count.step, loss.detach()))
                    return
            except AttributeError:
                pass  # the loss is no tensor: `_see_loss` knows what to do
            seen(module, args, kwargs, loss)

        return on_loss

    def _step_hook(self) -> Callable[..., None]:
        count, look_up = self._count, self._look_up

        def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            count.step = step = count.step + 1
            if step >= count.wake:
                look_up(step)

        return after_step

    # -- losses ---------------------------------------------------------------------------------------------------

    def _see_loss(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Take in a call of the loss module that is more than routine."""
        if self._closed or module is not self._loss_fn or torch.compiler.is_compiling():
            return
        started = perf_counter()
        try:
            with torch.no_grad():
                loss = loss_of(output)
                if loss is not None:
                    self._sort_loss(loss, LossCall.of(module, args, kwargs, loss, self._tracer.outputs))
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self._seconds += perf_counter() - started

    def _sort_loss(self, loss: Tensor, call: LossCall) -> None:
        """Decide whether a loss belongs to training or to validation."""
        if loss.requires_grad and (self._model.training or self._trains_in_eval):
            if self._evaluation:
                self._training_resumed()
            self._vector_loss |= loss.ndim > 0
            self._count.losses.append((self._count.step, loss.detach().float().mean() if loss.ndim else loss.detach()))
            if self._sampling:
                self._call = call.copied()
        else:
            self._evaluation.add(loss, call.rows)
            if loss.requires_grad and self._sampling:
                self._doubtful = call.copied()
        self._count.alert = self._sampling or self._vector_loss or bool(self._evaluation)

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Take in what the user's loop tells."""
        if self._closed:
            return
        started = perf_counter()
        if self._evaluation:
            self._training_resumed()
        if loss is not None:
            value = loss.detach() if isinstance(loss, Tensor) else float(loss)
            kept = value.float().mean() if isinstance(value, Tensor) and value.ndim else value
            if self._count.losses and self._count.losses[-1][0] == self._count.step:
                self._count.losses.pop()
            self._count.losses.append((self._count.step, kept))
        if self._sampling and (outputs is not None or targets is not None):
            with torch.no_grad():
                self._call = LossCall.told(outputs, targets, self._call).copied()
        self._seconds += perf_counter() - started

    def _training_resumed(self) -> None:
        """End the epoch for a user whose loop does not: an evaluation has ended."""
        if self._user_ends_epochs:
            return
        if self._monitor.sampler.affordable():
            self._end_epoch()
        else:
            self._evaluation = Evaluation(self._context.loss.reduction != "sum")

    def _end_epoch(self) -> None:
        self._ending = True
        self._monitor.end_epoch()
        self._ending = False

    def epoch_values(self) -> Mapping[str, float]:
        """Return what is known at the end of an epoch; called by `Monitor.end_epoch`."""
        step = self._count.step
        if not self._ending:
            self._user_ends_epochs = True
        self._monitor.advance(step - 1)
        self._epoch_end = 2 * step - self._epoch_start - 1
        self._epoch_start = step
        if not self._sampling and step <= self._epoch_end:
            self._count.wake = min(self._count.wake, self._epoch_end)
        if not self._evaluation:
            return {}
        self._count.alert = self._sampling or self._vector_loss
        return {"val_loss": self._evaluation.take()}

    # -- sampled steps --------------------------------------------------------------------------------------------

    def _look_up(self, step: int) -> None:
        """Finish the sample of the step that has ended, and begin that of the next one if it is due.

        Args:
            step: Steps done: the number of the step about to begin.
        """
        if self._closed:
            return
        started = perf_counter()
        sampler = self._monitor.sampler
        try:
            with torch.no_grad():
                if self._sampling:
                    self._finish(step - 1)
                    self._seconds += perf_counter() - started
                    sampler.charge(self._seconds, sample=True)
                    self._seconds, started = 0.0, perf_counter()
                self._monitor.advance(step - 1)
                if sampler.due(step) or (step == self._epoch_end and sampler.affordable()):
                    self._open_step()
                    self._count.wake = step + 1
                else:
                    self._count.wake = max(step + 1, sampler.next_step)
                    if step < self._epoch_end:
                        self._count.wake = min(self._count.wake, self._epoch_end)
                self._count.alert = self._sampling or self._vector_loss or bool(self._evaluation)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self._seconds += perf_counter() - started

    def _open_step(self) -> None:
        self._sampling = True
        self._call = self._doubtful = None
        self._readings = {}
        if not self._compiled:
            self._tracer.arm()
        for optimizer in self._optimizers:
            self._step_handles.append(optimizer.register_step_pre_hook(self._before_step))
        for optimizer in self._optimizers[1:]:
            self._step_handles.append(optimizer.register_step_post_hook(self._after_other_step))

    def _close_step(self) -> None:
        self._sampling = False
        for handle in self._step_handles:
            handle.remove()
        self._step_handles = []
        self._tracer.disarm()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = perf_counter()
        try:
            with torch.no_grad():
                reading = StepReading(self._parameters_of(optimizer))
                self._readings[id(optimizer)] = reading
                if not _closure(args, kwargs):
                    reading.read_gradients(optimizer)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self._seconds += perf_counter() - started

    def _after_other_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        started = perf_counter()
        try:
            with torch.no_grad():
                self._compare(optimizer)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self._seconds += perf_counter() - started

    def _compare(self, optimizer: Optimizer) -> None:
        reading = self._readings.get(id(optimizer))
        if reading is not None:
            reading.compare(optimizer)

    def _parameters_of(self, optimizer: Optimizer) -> list[tuple[nn.Parameter, int]]:
        """Return the parameters that an optimizer owns; the first one also answers for those that nobody owns."""
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if optimizer is self._optimizers[0]:
            others = {id(p) for o in self._optimizers[1:] for g in o.param_groups for p in g["params"]}
            return [(p, row) for p, row in self._owners.items() if id(p) in owned or id(p) not in others]
        first = {id(p) for group in self._optimizers[0].param_groups for p in group["params"]}
        return [(p, row) for p, row in self._owners.items() if id(p) in owned - first]

    def _finish(self, step: int) -> None:
        """Bring everything of a sampled step to the host and hand it over."""
        self._seconds += self._tracer.seconds
        self._tracer.seconds = 0.0
        first = self._optimizers[0]
        self._compare(first)
        self._close_step()
        if self._call is None and self._doubtful is not None:
            self._trains_in_eval = True
            self._evaluation.drop_last()
            self._call = self._doubtful
            self._count.losses.append((step, self._doubtful.loss))
        if not self._begun and not self._begin():
            return
        self._monitor.record(self._observation(step, first))
        self._tracer.forget()
        self._call = self._doubtful = None
        self._readings = {}

    def _begin(self) -> bool:
        """Fix the rows of the layer table, from the first forward pass; False if there was none yet to see."""
        tracer = self._tracer
        if not tracer.calls and not self._compiled and not tracer.by_parts:
            tracer.by_parts = True  # the root is never called: look at its parts instead
            return False
        self._begun = True
        self._table.fix()
        outputs = self._outputs()
        trace = tracer.output_trace
        activation = None if trace is None else trace.activation
        if self._call is not None and self._call.activation is not None:
            activation = self._call.activation
        axis = self._context.loss.class_axis
        units = None if outputs is None else (outputs.shape[axis] if outputs.ndim > 1 else 1)
        self._context = replace(
            self._context,
            layers=self._table.layers,
            output_activation=activation,
            output_units=units,
            input_kind=tracer.input_kind,
        )
        self._monitor.begin(self._context)
        tracer.settle()
        return True

    def _outputs(self) -> Tensor | None:
        told = None if self._call is None else self._call.outputs
        return told if told is not None else self._tracer.outputs

    def _observation(self, step: int, optimizer: Optimizer) -> Observation:
        outputs, targets = self._outputs(), None if self._call is None else self._call.targets
        rows = row_count(outputs, targets)
        batch = self._tracer.batch_size
        if batch is None and outputs is not None and outputs.ndim:
            batch = outputs.shape[0]
        losses = dict(self._count.losses)
        self._count.losses.clear()
        scalars = [value for value in losses.values() if isinstance(value, Tensor)]
        table, on_host = self._table.fill(list(self._readings.values()), scalars)
        told = iter(on_host.tolist())
        known = {at: next(told) if isinstance(value, Tensor) else value for at, value in losses.items()}
        known = {at: value if np.isfinite(value) else float("inf") for at, value in known.items()}
        return Observation(
            step=step,
            layers=table,
            loss=known.pop(step, float("nan")),
            learning_rate=float(optimizer.param_groups[0].get("lr", float("nan"))),
            batch_size=float("nan") if batch is None else float(batch),
            inputs=to_host(self._tracer.inputs),
            outputs=to_host(rows_of(outputs, rows)),
            targets=to_host(rows_of(targets, rows)),
            losses=sorted(known.items()),
        )


def _closure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether an optimizer's step was given a closure, from what its hooks are told (the optimizer is first)."""
    return (len(args) > 1 and callable(args[1])) or callable(kwargs.get("closure"))
