"""Follows the loss of a watched training: a module, what the model returns, or what a backward pass starts from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.losses.overlap_loss import raw_overlap, share_outside
from autotrainer.backends.pytorch.losses.reordered_outputs import reordering
from autotrainer.backends.pytorch.model.loss_kinds import fitted_loss_info, loss_info
from autotrainer.backends.pytorch.runtime.hooks import add_hook, is_compiled
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.watching.losses.backward_loss import BackwardLoss, ReturnedLoss
from autotrainer.backends.pytorch.watching.losses.loss_call import LossCall
from autotrainer.backends.pytorch.watching.losses.loss_hook import RemovableHook, hook_loss_calls
from autotrainer.backends.pytorch.watching.losses.loss_tracker import LossTracker
from autotrainer.backends.pytorch.watching.losses.unsampled_loss import UnsampledLoss
from autotrainer.backends.pytorch.watching.step_measurement import StepMeasurement
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.output import logger
from autotrainer.records.task import LossInfo

__all__ = ["WatchedLosses"]

_BACKWARD = "loss of the backward pass"

_INSPECTED = 3
"""Losses that are looked at for what they sum: walking the graph takes a few microseconds a node."""

_MOST_PASSES = 64
"""Losses of a step up to which its forward passes are recorded: where the optimizer never steps, they have no end."""


class WatchedLosses:
    """Decides by which hooks the loss is followed, and describes it.

    Args:
        model: The model.
        loss_fn: Loss module, which is hooked; or a function or None: then the backward pass shows the loss.
        monitor: Receives the description of the loss.
        measurement: Measures sampled steps.
        tracker: Keeps the losses.
        guard: Keeps statistics apart.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Any,
        monitor: Recorder,
        measurement: StepMeasurement,
        tracker: LossTracker,
        guard: StatisticGuard,
    ) -> None:
        self._model, self._monitor, self._measurement = model, monitor, measurement
        self._tracker, self._guard = tracker, guard
        self._module = WeakSequence([loss_fn] if isinstance(loss_fn, nn.Module) else [])
        self._module_hooks: list[RemovableHook] = []
        self._output_hooks: list[RemovableHook] = []
        self._warned_compiled = False
        self._inspected = self._losses_of_step = 0
        tracker.on_loss = weak_method(self._inspect)
        self._backward: BackwardLoss | None = None
        self._between = UnsampledLoss(tracker.counter)
        several = measurement.context.optimizer.several
        if not (isinstance(loss_fn, nn.Module) or several or monitor.context.managed):
            tracer, fail = measurement.tracer, partial(guard.fail, _BACKWARD)
            self._backward = BackwardLoss(model, fail, measurement.stopwatch, tracer)
            self._backward.on_loss, tracker.on_loss = tracker.on_loss, None  # which would see some losses twice
            self._backward.returned = returned = ReturnedLoss(weak_method(self._follow_returned))
            measurement.tracer.on_result = returned.note
        measurement.backward_passes.patches = self._backward is not None

    @property
    def backward_passes(self) -> int:
        """Backward passes of the latest sampled step from losses of this model; 0 where they are not followed."""
        return 0 if self._backward is None else self._backward.passes

    def report_targets(self, receiver: Callable[[Tensor], None] | None) -> None:
        """Have a function called with targets of the loss; None: no longer."""
        self._tracker.on_targets = receiver
        if self._backward is not None:
            self._backward.on_targets = receiver

    def attach(self) -> None:
        """Hook the loss module, if there is one."""
        for loss in self._module:
            if loss is self._model:
                continue
            if is_compiled(loss):
                self._warn_compiled()
            else:
                self._module_hooks = [hook_loss_calls(loss, self._tracker.make_hook())]

    def detach(self) -> None:
        """Remove all hooks."""
        self._tracker.closed = True
        self._between.stop()
        if self._backward is not None:
            self._backward.end()
        for hook in (*self._module_hooks, *self._output_hooks):
            hook.remove()
        self._module_hooks, self._output_hooks = [], []

    def follow(self, loss_fn: Any, call: tuple[tuple[Any, ...], dict[str, Any], Any] | None) -> None:
        """Follow another loss; see `LibraryObserver.follow_loss`."""
        self.leave_backward()
        self._measurement.backward_passes.patches = not isinstance(loss_fn, nn.Module)  # else its calls show the factor
        self._describe(loss_info(loss_fn))
        self._module = WeakSequence([loss_fn] if isinstance(loss_fn, nn.Module) else [])
        self._tracker.follow(loss_fn)
        self.attach()
        if call is not None:
            self._tracker.make_hook()(loss_fn, *call)

    def ignore(self) -> None:
        """Follow no loss."""
        for hook in self._module_hooks:
            hook.remove()
        self._module_hooks = []
        self.follow(None, None)
        self._measurement.backward_passes.patches = False
        self._tracker.take_losses()
        self._tracker.clear_call()

    def leave_backward(self) -> None:
        """Leave the backward pass unread."""
        self._between.stop()
        if self._backward is not None:
            self._backward.end()
            self._tracker.on_loss = self._backward.on_loss
            self._backward = self._measurement.tracer.on_result = None
            self._measurement.backward_passes.patches = False

    def expect_accumulation(self) -> None:
        """Take several backward passes of a step for those of one batch."""
        if self._backward is not None:
            self._backward.accumulates = True

    def begin(self) -> None:
        """Follow the backward pass of the sampled step that begins."""
        self._tracker.clear_call()
        self._losses_of_step = 0
        self._between.pause()
        if self._backward is not None:
            self._backward.begin()

    def read_backward(self, step: int) -> None:
        """Complete the loss of a sampled step from its backward pass."""
        backward = self._backward
        if backward is None:
            return
        backward.end()
        returned = backward.returned if backward.returned is not None and backward.returned.followed else None
        own_value = False  # whether the pass starts from the loss itself
        if backward.call is not None and self._guard.active(_BACKWARD):
            own_value = returned is None and not isinstance(self._measurement.loss_scale.read(), Tensor)
            self._tracker.complete(step, backward.call, value=own_value)
        function = backward.function if returned is None else returned.function
        if function is not None and self._monitor.context.loss.own:
            self._describe(loss_info(function))
        self._between.confirm(self._shown(backward, own_value))

    def _shown(self, backward: BackwardLoss, own_value: bool) -> str | None:
        """Return the operation that the only backward pass of the sampled step starts from, if that is the loss."""
        only = own_value and len(backward.started) == backward.passes == 1 and not self._tracker.logged
        return backward.started[0] if only else None

    def _inspect(self, loss: Tensor) -> None:
        """Learn whether a loss is an overlap of raw outputs: from the first ones, and then until some are outside."""
        asked = self._monitor.context.asked
        self._inspected += 1
        self._losses_of_step += 1
        if self._losses_of_step == _MOST_PASSES:
            self._measurement.tracer.disarm()
        if self._inspected <= _INSPECTED and "reordered_classes" not in asked:
            self._monitor.learn(self._guard.measure("order of the outputs", _reordering_facts, loss) or {})
        if asked.get("overlap_outside", math.inf if self._inspected > _INSPECTED else 0.0) == 0:
            self._monitor.learn(self._guard.measure("overlap", self._overlap_facts, loss) or {})

    def _overlap_facts(self, loss: Tensor) -> dict[str, float]:
        overlap, outputs = raw_overlap(loss), self._measurement.tracer.outputs
        if overlap is None or outputs is None or outputs.numel() != overlap.size:
            return {}
        return {"overlap_outside": share_outside(outputs), "overlap_alone": float(overlap.alone)}

    def fit_description(self) -> None:
        """Complete the description of a loss module by the shapes that it got."""
        call, module = self._tracker.call, next(iter(self._module), None)
        if call is not None and module is not None:
            context = self._measurement.context
            axis = fitted_loss_info(module, call.outputs, call.targets).class_axis
            self._measurement.context = replace(context, loss=replace(context.loss, class_axis=axis))

    def warn_if_compiled(self) -> None:
        """Log that the loss was not observed, if its module is compiled."""
        if any(map(is_compiled, self._module)):
            self._warn_compiled()

    def _warn_compiled(self) -> None:
        if not self._warned_compiled:
            self._warned_compiled = True
            logger.warning("the loss is compiled and can't be observed: call monitor.log(loss=..., outputs=..., ...)")

    def _follow_returned(self, call: LossCall, adds_up: bool) -> None:
        """Follow the loss that the model returns, as a backward pass has started from it."""
        self._measurement.tracer.on_result = None
        if not (self._tracker.closed or self._tracker.logged):
            self._output_hooks.append(add_hook(self._model, self._tracker.make_output_hook(), with_kwargs=True))
            self._tracker.record_returned(call, adds_up=adds_up)

    def _describe(self, described: LossInfo) -> None:
        self._measurement.context = replace(self._measurement.context, loss=described)
        self._monitor.begin(replace(self._monitor.context, loss=described))


def _reordering_facts(loss: Tensor) -> dict[str, float]:
    found = reordering(loss)
    if found is None or len(found.after) < 3 or len(found.before) != len(found.after):
        return {}
    return {"reordered_steps": float(found.before[1]), "reordered_classes": float(found.after[1])}
