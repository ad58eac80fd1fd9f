"""Watches a PyTorch training that the user runs, without changing it.

Between sampled steps two hooks remain: one on calls of the loss module, which keeps a reference to the loss, and one on
the optimizer's step, which counts. A step is sampled from the end of the step before to its own end; only then does the
model have hooks, and only then is anything computed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.model.describe import layers, optimizer_info
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.runtime.hooks import is_compiled, never_compiled
from autotrainer.backends.pytorch.watching.evaluations import ValidationPass
from autotrainer.backends.pytorch.watching.loss_call import losses_to_host
from autotrainer.backends.pytorch.watching.loss_hook import Handle, see_calls
from autotrainer.backends.pytorch.watching.loss_tracker import Count, LossTracker, is_kept
from autotrainer.backends.pytorch.watching.modes import dropout_rate
from autotrainer.backends.pytorch.watching.nonfinite_inputs import NonfiniteInputs
from autotrainer.backends.pytorch.watching.ownership import Ownership
from autotrainer.backends.pytorch.watching.source_lines import SourceLines
from autotrainer.backends.pytorch.watching.step_sampler import SampledSteps
from autotrainer.errors import InputError
from autotrainer.records.task import TaskContext
from autotrainer.rule import Place

__all__ = ["TorchObserver", "observe"]

logger = logging.getLogger("autotrainer")

_HELD_OUT = ("val", "test", "eval", "dev")
"""How names of results on held-out data begin."""


def observe(
    model: nn.Module,
    optimizer: Any,
    loss_fn: Any,
    monitor: Recorder,
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
        optimizer=replace(optimizer_info(optimizers[0]), several=len(optimizers) > 1),
        layers=Ownership(model, optimizers).tell(layers(model)),
        dropout=max((dropout_rate(module) for module in model.modules()), default=0.0),
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


class TorchObserver:
    """Keeps the hooks of one watched training. Made by `observe`."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: tuple[Optimizer, ...],
        loss_fn: Any,
        monitor: Recorder,
        context: TaskContext,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._loss_fn = loss_fn
        self._monitor = monitor
        self._count = Count(monitor.history.step + 1)  # a training may go on from where another one was
        self._sampled = SampledSteps(model, optimizers, context, self._fail, monitor.needs, lambda: self._count.step)
        self._bad_inputs = NonfiniteInputs(model, self._fail)
        self._evaluation = ValidationPass(context.loss.reduction != "sum")
        self._sources = SourceLines(model)
        note = partial(self._sources.note, "loss")
        self._losses = LossTracker(
            model, loss_fn, self._sampled, self._count, self._evaluation, self._training_resumed, note, self._fail
        )
        self._handles: list[Handle] = []
        self._seconds = 0.0
        self._closed = False
        self._told_compiled_loss = False
        self._user_ends_epochs = False
        self._ending_epoch = False
        self._epoch_start = self._count.step
        self._epoch_end = -1

    # -- attach and detach ----------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put the permanent hooks in place and sample the first step if it is due."""
        if isinstance(self._loss_fn, nn.Module) and self._loss_fn is not self._model:
            if is_compiled(self._loss_fn):
                self._tell_compiled_loss()
            else:
                self._handles.append(see_calls(self._loss_fn, self._losses.hook()))
        if self._sampled.compiled:
            logger.warning("the model is compiled: its activations are not measured, everything else is")
        self._handles.append(self._optimizers[0].register_step_post_hook(never_compiled(self._step_hook())))
        self._look_up(self._count.step, self._monitor.sampler.due(self._count.step))

    def close(self) -> None:
        """Remove every hook and drop every reference to the user's objects."""
        if not self._handles and self._closed:
            return
        self._detach()
        self._monitor.advance(self._count.step - 1)
        self._tell_loss_scale()
        self._tell_losses()
        if self._evaluation and not self._user_ends_epochs:
            self._end_epoch()
        self._losses.forget()

    def skip(self, steps: int) -> None:
        """Count steps that were taken before this was attached."""
        self._count.step += steps
        self._count.wake += steps
        self._epoch_end += steps

    @property
    def sampling(self) -> bool:
        """Whether the present step is measured: outputs and targets are of use then."""
        return self._sampled.open

    @property
    def wants_loss(self) -> bool:
        """Whether the loss of the present step is one to be kept."""
        return self._sampled.open or is_kept(self._count.step)

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is made, or the loss or the step is called; see `Locator`."""
        return self._sources.place(what, layer, managed=self._monitor.context.managed)

    def _tell_compiled_loss(self) -> None:
        if not self._told_compiled_loss:
            self._told_compiled_loss = True
            logger.warning("the loss is compiled and can't be seen: call monitor.log(loss=..., outputs=..., ...)")

    def _detach(self) -> None:
        self._closed = self._losses.closed = True
        self._sampled.end()
        self._bad_inputs.end()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _fail(self, error: Exception) -> None:
        """Report what went wrong and stop watching; the training goes on."""
        self._monitor.fail("watching the PyTorch training", error)
        self._detach()

    # -- the hook on the steps ------------------------------------------------------------------------------------

    def _step_hook(self) -> Callable[..., None]:
        count, sampled = self._count, self._sampled
        # In a compiled step, the numbers that these read would be constants of the compiled code.
        rare = self._look_up, self._sleep, self._monitor.sampler.due
        look_up, sleep, due = (torch.compiler.disable(function) for function in rare)  # type: ignore[no-untyped-call]

        def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            count.step = step = count.step + 1
            if step >= count.wake:
                if sampled.open or step == self._epoch_end:
                    look_up(step, False)
                elif due(step):
                    look_up(step, True)
                else:
                    sleep(step)

        return after_step

    def _sleep(self, step: int) -> None:
        """Set the step at which to look up again."""
        wake = max(step + 1, self._monitor.sampler.next_step)
        self._count.wake = min(wake, self._epoch_end) if step < self._epoch_end else wake

    # -- losses ---------------------------------------------------------------------------------------------------

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Take in what the user's loop tells."""
        if not self._closed:
            self._losses.log(loss=loss, outputs=outputs, targets=targets)

    def _tell_losses(self) -> None:
        """Hand over the losses of steps since the last sample; this waits for the device."""
        losses = losses_to_host(self._losses.take())
        self._monitor.record_losses(sorted(losses.items()))
        self._look_through(losses.values())

    def _look_through(self, losses: Iterable[float]) -> None:
        """Look through the inputs of the steps to come where the loss is no longer finite, and tell what was found."""
        if not self._closed and not self._sampled.compiled and math.inf in losses:
            self._bad_inputs.begin(self._count.step)
        self._monitor.learn(self._bad_inputs.told())

    def _tell_loss_scale(self) -> None:
        """Hand over the scale of the loss where steps were given up: such steps are not seen."""
        if "loss_scale" in self._monitor.needs and (self._count.step or self._count.losses):
            self._monitor.learn(self._sampled.loss_scale.told(stepped=self._count.step > 0))

    # -- epochs ---------------------------------------------------------------------------------------------------

    def _training_resumed(self) -> None:
        """An evaluation has ended: it is the end of an epoch for a user whose loop never says so."""
        if self._user_ends_epochs:
            return
        if self._monitor.sampler.affordable():
            self._end_epoch()
        else:
            self._evaluation.clear()

    def _end_epoch(self) -> None:
        self._ending_epoch = True
        self._monitor.end_epoch()
        self._ending_epoch = False

    def epoch_values(self) -> Mapping[str, float]:
        """Return what is known at the end of an epoch; called by `Monitor.end_epoch`."""
        step = self._count.step
        if not self._ending_epoch:
            self._user_ends_epochs = True
        self._monitor.advance(step - 1)
        self._tell_loss_scale()
        if not self._sampled.open:
            self._tell_losses()
        self._epoch_end = 2 * step - self._epoch_start - 1
        self._epoch_start = step
        if not self._sampled.open and step <= self._epoch_end:
            self._count.wake = min(self._count.wake, self._epoch_end)
        values = {"val_loss": self._evaluation.take()} if self._evaluation else {}
        told = any(name.startswith(_HELD_OUT) for name in self._monitor.history.epoch_names)
        mode = self._sampled.modes.end_epoch(told)
        if not math.isnan(mode):
            values["evaluation_mode"] = mode
        self._losses.set_alert()
        return values

    # -- sampled steps --------------------------------------------------------------------------------------------

    def _look_up(self, step: int, due: bool) -> None:
        """Finish the sample of the step that has ended, and begin that of the next one if it is due.

        Args:
            step: Steps done: the number of the step about to begin.
            due: Whether that is known to be sampled.
        """
        if self._closed:
            return
        started = perf_counter()
        sampler = self._monitor.sampler
        try:
            with torch.no_grad():
                if self._sampled.open:
                    self._finish(step - 1)
                    spent = self._seconds + self._losses.seconds + self._bad_inputs.seconds
                    sampler.charge(spent + self._sampled.take_seconds() + perf_counter() - started, sample=True)
                    self._seconds = self._losses.seconds = self._bad_inputs.seconds = 0.0
                    started = perf_counter()
                    due = sampler.due(step)
                self._monitor.advance(step - 1)
                if due or (step == self._epoch_end and sampler.affordable()):
                    self._losses.forget()
                    self._sampled.begin()
                    self._count.wake = step + 1
                else:
                    if step - self._epoch_end in (0, 1) and not self._sampled.compiled:
                        self._sampled.modes.expect_evaluation(self._epoch_end + 1)
                    self._sleep(step)
                self._losses.set_alert()
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self._seconds += perf_counter() - started

    def _finish(self, step: int) -> None:
        """Hand over everything of a sampled step."""
        sampled = self._sampled
        self._sources.note("step")
        sampled.compare(self._optimizers[0])
        sampled.end()
        self._losses.settle(step)
        if not sampled.begun:
            if not sampled.fix_layers(self._losses.call):
                return
            self._monitor.begin(sampled.context)
        elif sampled.refresh():
            self._monitor.begin(sampled.context)
        losses = self._losses.take()
        if step not in losses and isinstance(self._loss_fn, nn.Module) and is_compiled(self._loss_fn):
            self._tell_compiled_loss()
        seen = sampled.observation(step, self._losses.call, losses)
        self._monitor.record(seen)
        self._look_through([seen.loss, *(loss for _, loss in seen.losses)])
        self._losses.forget()
