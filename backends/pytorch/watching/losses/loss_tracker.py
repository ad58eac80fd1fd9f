"""The losses of a watched training: from calls of its loss module, and from `Monitor.log`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.losses.pairwise_loss import pairwise_rows
from autotrainer.backends.pytorch.runtime.observation import is_transformed, observation
from autotrainer.backends.pytorch.runtime.torch_private import dispatch_modes, function_modes, has_transforms
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.watching.losses.loss_call import (
    LossCall,
    loss_of,
    losses_add_up,
    losses_to_host,
    returned_call,
    returned_loss,
)
from autotrainer.backends.pytorch.watching.losses.validation_loss import ValidationLoss
from autotrainer.backends.pytorch.watching.step_measurement import StepMeasurement
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.lifetime import weak_method

__all__ = ["LossTracker", "StepCounter", "is_kept"]

_MOST_LOSSES = 128
"""Latest losses of unsampled steps that are kept until the next sample."""

_ALL_LOSSES, _LOSS_PERIOD, _LOSS_BURST = 256, 128, 16
"""The loss of each of the first steps is kept, then bursts of consecutive ones: detaching a loss is most of the cost of
watching between samples, and bursts still show whether the loss alternates from step to step."""

_NEVER = 1 << 62


def is_kept(step: int) -> bool:
    """Return whether the loss of a step is kept between samples."""
    return step < _ALL_LOSSES or step % _LOSS_PERIOD < _LOSS_BURST


class StepCounter:
    """State that the two permanent hooks share: plain attributes, read and written at every step."""

    __slots__ = (
        "_first_nonfinite",
        "_recent",
        "inspect_next",
        "latest_loss",
        "latest_step",
        "losses",
        "nonfinite_step",
        "step",
        "wake_step",
        "wakes",
    )

    def __init__(self, step: int = 0) -> None:
        self.step = step
        """Steps done."""
        self.wake_step = 0
        """Number of steps done at which the step hook acts again."""
        self.inspect_next = True
        """Whether the next training loss needs more than keeping a reference."""
        self.losses: deque[tuple[int, Tensor | float]] = deque(maxlen=_MOST_LOSSES)
        self.latest_step = -1
        """The latest step whose loss is not among these."""
        self.latest_loss: ref[Tensor] | float | None = None
        """Its loss; on a device, as long as the user's loop keeps it: a reference would keep the step's graph alive."""
        self.nonfinite_step: int | None = None
        """The first step whose loss on the host is not finite, until it is taken; then -1."""
        self.wakes = True
        """Whether the step hook may act in a step of this process alone."""
        self._recent: list[tuple[int, Tensor]] = []  # losses on a device that are not among these
        self._first_nonfinite: Tensor | None = None  # the first step with one of those before them; or `_NEVER`

    def keep(self, loss: Tensor, *, adds_up: bool = False) -> None:
        """Keep a loss of the present step, without its graph; added to those before it in the step if they add up."""
        if adds_up and self.losses and self.losses[-1][0] == self.step:
            loss = loss + self.losses.pop()[1]
        self.losses.append((self.step, loss))
        if loss.is_cpu and not loss.ndim:
            self.check(loss.item())

    def note(self, loss: Tensor) -> None:
        """Note a loss of a step that is not kept, so that the first one that is not finite is known to the step."""
        self.latest_step = self.step
        if loss.is_cpu:
            self.latest_loss = value = loss.item()
            self.check(value)
        else:
            self.latest_loss = ref(loss)
            self.note_on_device(loss.detach())

    def check(self, loss: float) -> None:
        """Have the step hook act at once where the loss of the present step is the first that is not finite."""
        if loss - loss and self.nonfinite_step is None:  # the difference is NaN
            self.nonfinite_step = self.step
            if self.wakes:
                self.wake_step = self.step + 1

    def note_on_device(self, loss: Tensor) -> None:
        """Note a loss without waiting for its device; many at a time are reduced to a single number there."""
        self._recent.append((self.step, loss))
        if len(self._recent) >= _MOST_LOSSES:
            self._reduce()

    def _reduce(self) -> None:
        steps, losses = zip(*self._recent, strict=True)
        self._recent.clear()
        with observation():
            finite = torch.isfinite(torch.stack([loss.reshape(()) for loss in losses]))
            first = torch.where(finite, _NEVER, torch.tensor(steps, device=finite.device)).min()
            before = self._first_nonfinite
            self._first_nonfinite = first if before is None else torch.minimum(before.to(first.device), first)

    def take_nonfinite(self) -> int | None:
        """Return and drop the first step, of those noted, whose loss is not finite; None if there is no new one.

        Waits for the device of the losses, if they are on one.
        """
        step, self.nonfinite_step = self.nonfinite_step, -1 if self.nonfinite_step is not None else None
        if self._recent:
            self._reduce()
        if self._first_nonfinite is not None:
            first, self._first_nonfinite = int(self._first_nonfinite), None
            if first < _NEVER and step != -1:
                step = first if step is None else min(first, step)
                self.nonfinite_step = -1
        return None if step == -1 else step

    def rearm(self) -> None:
        """Look for the first loss that is not finite again, as a later one is finite."""
        if self.nonfinite_step == -1:
            self.nonfinite_step = None


class LossTracker:
    """Sorts losses into those of training steps and those of evaluations.

    Args:
        model: The model.
        loss_fn: The loss.
        step_measurement: Measures sampled steps.
        counter: Steps so far.
        validation_loss: Takes the losses that do not belong to a training step.
        on_evaluation: Called at a loss that does not belong to a training step.
        on_training_resumed: Called when a training step follows an evaluation.
        note_call: Called while a call of the loss is on the stack.
        guard: Measures statistics, so that one that fails is left out alone.
        stopwatch: Measures the time spent in the hook, but for the steps that only keep a reference.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Any,
        step_measurement: StepMeasurement,
        counter: StepCounter,
        validation_loss: ValidationLoss,
        on_evaluation: Callable[[], None],
        on_training_resumed: Callable[[], None],
        note_call: Callable[[], None],
        guard: StatisticGuard,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._model, self._step_measurement = model, step_measurement
        self._loss_module = WeakSequence([loss_fn] if isinstance(loss_fn, nn.Module) else [])
        self.counter, self._validation_loss = counter, validation_loss
        self._on_evaluation, self._on_training_resumed = on_evaluation, on_training_resumed
        self._note_call, self._guard = note_call, guard
        self._trains_in_eval = False
        self._vector_loss = False
        self._name = "loss"
        self._ambiguous_call: LossCall | None = None
        self._ambiguous_losses = 0
        self._embeds = False
        self.logged = False
        """Whether the loop reports its loss."""
        self._terms: deque[tuple[int, dict[str, Tensor | float]]] = deque(maxlen=_MOST_LOSSES)
        self.call: LossCall | None = None
        """The call in the sampled step, as far as it is known."""
        self.on_targets: Callable[[Tensor], None] | None = None
        """Called with the whole targets of sampled steps, while it is set."""
        self.on_loss: Callable[[Tensor], None] | None = None
        """Called with the losses of sampled steps, before their backward pass."""
        self.closed = False
        self.stopwatch = stopwatch or Stopwatch()

    def follow(self, loss_fn: Any) -> None:
        """Take another loss for that of the training."""
        self._loss_module = WeakSequence([loss_fn] if isinstance(loss_fn, nn.Module) else [])

    def make_hook(self) -> Callable[..., None]:
        """Return the hook for each call of the loss module."""
        counter, model, record_call = self.counter, self._model, self._record_call

        def on_loss(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
            if is_compiling():
                return  # a compiled step would hold what is read here as constants
            usual = not counter.inspect_next and type(loss) is Tensor
            if usual and not (function_modes() or dispatch_modes()) and loss.requires_grad and model.training:
                step = counter.step
                kept = step < _ALL_LOSSES or step % _LOSS_PERIOD < _LOSS_BURST
                if has_transforms() or loss.ndim:
                    record_call(module, args, kwargs, loss)
                elif not kept:
                    counter.note(loss)
                elif loss.is_cpu:  # reading it there takes less time than detaching it
                    value = loss.item()
                    counter.losses.append((step, value))
                    counter.check(value)
                else:
                    counter.losses.append((step, loss.detach()))
            else:
                record_call(module, args, kwargs, loss)

        return on_loss

    def make_output_hook(self) -> Callable[..., None]:
        """Return the hook for each call of a model that returns its loss; it keeps nothing of the model alive."""
        counter, record = self.counter, weak_method(self._record_output)

        def on_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if is_compiling():
                return
            loss = returned_loss(output)
            if loss is None:
                return  # there were no labels
            usual = not counter.inspect_next and type(loss) is Tensor and loss.requires_grad and module.training
            if not usual or function_modes() or dispatch_modes() or has_transforms():
                record(loss, kwargs, output)
            elif is_kept(counter.step):
                counter.keep(loss.detach(), adds_up=losses_add_up(kwargs))
            else:
                counter.note(loss)

        return on_output

    def record_returned(self, call: LossCall, *, adds_up: bool) -> None:
        """Record a call of a model that has returned its loss, in the training step that goes on."""
        if isinstance(call.loss, Tensor):
            self.counter.keep(call.loss, adds_up=adds_up)
        self.call = call
        self.update_inspection()

    def log(self, *, loss: Any, outputs: Any, targets: Any, terms: Mapping[str, Any] | None = None) -> None:
        """Record what the user's loop reports."""
        with self.stopwatch:
            if self._validation_loss.open:
                self._on_training_resumed()
            if loss is not None:
                self.logged = True
                value = _scalar(loss)
                self.counter.losses.append((self.counter.step, value))
                if isinstance(value, float) or value.is_cpu:
                    self.counter.check(float(value))
                else:
                    self.counter.note_on_device(value)
            step = self.counter.step
            if terms and (self._step_measurement.sampling or is_kept(step)):
                before = self._terms.pop()[1] if self._terms and self._terms[-1][0] == step else {}
                self._terms.append((step, {**before, **{name: _scalar(value) for name, value in terms.items()}}))
            if self._step_measurement.sampling:
                self._note_call()
            if self._step_measurement.sampling and (outputs is not None or targets is not None):
                with observation():
                    if self.on_targets is not None and isinstance(targets, Tensor):
                        self.on_targets(targets)
                    self.call = LossCall.reported(outputs, targets, self.call).copied()
            if self._step_measurement.sampling and isinstance(loss, Tensor) and pairwise_rows(loss) is not None:
                self.call = replace(self.call or LossCall(loss.detach()), pairwise=True)

    def complete(self, step: int, call: LossCall, *, value: bool) -> None:
        """Use what a backward pass shows of a step, as far as the loop has not reported it.

        Args:
            step: The step.
            call: Its loss, outputs and targets.
            value: Whether the value of the loss is that of the loop, rather than a scaled one.
        """
        if self.call is None and (call.targets is not None or call.pairwise):
            self.call = call
        if value and not self.logged and not any(at == step for at, _ in self.counter.losses):
            self.counter.losses.append((step, call.loss))

    def losses_without_step(self) -> int:
        """Return how many of the losses kept so far were computed before the first step; 0 if there has been one."""
        return 0 if self.counter.step else sum(at == 0 for at, _ in self.counter.losses)

    def clear_call(self) -> None:
        """Drop the calls of the previous step."""
        self.call, self._ambiguous_call, self._ambiguous_losses = None, None, 0

    def resolve_ambiguous_loss(self, step: int) -> None:
        """Decide, at the end of a sampled step, whether losses in evaluation mode belonged to it."""
        if self.call is None and self._ambiguous_call is not None:
            # The model trains in evaluation mode: what looked like validation losses were those of this step.
            self._trains_in_eval = True
            self._validation_loss.drop_last(self._ambiguous_losses)
            self.call = self._ambiguous_call
            self.counter.losses.append((step, self.call.loss))

    def take_losses(self) -> dict[int, Tensor | float]:
        """Return and drop the losses kept so far, by step."""
        losses = dict(self.counter.losses)
        self.counter.losses.clear()
        nonfinite = self.counter.take_nonfinite()
        if nonfinite is not None:
            losses.setdefault(nonfinite, math.inf)
            losses = dict(sorted(losses.items()))
        return losses

    def take_terms(self, step: int, losses: Mapping[int, Tensor | float]) -> dict[str, Tensor | float]:
        """Return the reported terms of the loss of a step, and drop all others.

        If a loss is not finite, they are those of the first step in which a term is not: later ones follow from it.

        Args:
            step: The step.
            losses: The latest losses by step.
        """
        latest = dict(self._terms)
        self._terms.clear()
        if latest and math.inf in losses_to_host(losses).values():
            for terms in latest.values():
                if math.inf in losses_to_host(dict(enumerate(terms.values()))).values():
                    return terms
        return latest.get(step, {})

    def keep_latest(self, step: int) -> None:
        """Keep the loss of a step, the last one of the training, if the user's loop still has it."""
        latest = self.counter.latest_loss
        loss = latest() if isinstance(latest, ref) else latest
        if loss is not None and self.counter.latest_step == step and not has_transforms():
            self.counter.losses.append((step, loss.detach() if isinstance(loss, Tensor) else loss))
        self.counter.latest_loss = None

    def update_inspection(self) -> None:
        """Decide whether the next loss needs more than keeping a reference."""
        self.counter.inspect_next = self._step_measurement.sampling or self._vector_loss or self._validation_loss.open

    def _record_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.closed or not any(module is loss for loss in self._loss_module) or is_transformed():
            return
        self._name = type(module).__name__
        with self.stopwatch:
            try:
                with observation():
                    loss = loss_of(output)
                    if loss is not None:
                        outputs = self._step_measurement.tracer.outputs
                        call = self._guard.measure("targets", LossCall.of, module, args, kwargs, loss, outputs)
                        self._embeds |= call is not None and call.embeds
                        if call is not None and self._embeds:  # also in batches in which no pair has a loss
                            call = replace(call, targets=None)
                        self._guard.measure(
                            "calls of the loss", self._record_loss, loss, call or LossCall(loss.detach())
                        )
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._guard.fail("calls of the loss", error)

    def _record_output(self, loss: Tensor, kwargs: dict[str, Any], output: Any) -> None:
        if self.closed or is_transformed():
            return
        with self.stopwatch:
            try:
                with observation():
                    self._record_loss(loss, returned_call(loss, kwargs, output), adds_up=losses_add_up(kwargs))
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._guard.fail("calls of the loss", error)

    def _record_loss(self, loss: Tensor, call: LossCall, *, adds_up: bool = False) -> None:
        if loss.requires_grad and (self._model.training or self._trains_in_eval):
            if self._step_measurement.sampling:
                self._guard.measure(
                    "backward passes", self._step_measurement.backward_passes.note_call, self._name, loss
                )
            if self._validation_loss.open:
                self._on_training_resumed()
            self._vector_loss |= loss.ndim > 0
            value = loss.detach().float().mean() if loss.ndim else loss.detach()
            self.counter.keep(value, adds_up=adds_up)
            if self._step_measurement.sampling:
                self._note_call()
                if self.on_loss is not None:
                    self.on_loss(loss)
                if self.on_targets is not None and call.targets is not None:
                    self.on_targets(call.targets)
                several = self.call is not None  # then none of them is that of the batch
                call = replace(call, direct=False) if several else call
                self.call = self._guard.measure("targets", call.copied) or LossCall(loss.detach())
        else:
            self._validation_loss.add(loss, call.rows)
            if not loss.requires_grad:
                self._on_evaluation()
            if not (loss.requires_grad or self._step_measurement.compiled):
                self._step_measurement.mode_tracker.note_evaluation_loss()
            if loss.requires_grad and self._step_measurement.sampling:
                self._ambiguous_call = call.copied()
                self._ambiguous_losses += 1
        self.update_inspection()


def _scalar(value: Any) -> Tensor | float:
    """Return a reported loss as a scalar without its graph."""
    if not isinstance(value, Tensor):
        return float(value)
    detached = value.detach()
    return detached.float().mean() if detached.ndim else detached
