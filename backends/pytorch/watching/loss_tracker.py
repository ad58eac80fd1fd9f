"""Takes in the losses of a watched training: those that its loss module is called for, and those that it logs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from autotrainer.backends.pytorch.watching.evaluations import ValidationPass
from autotrainer.backends.pytorch.watching.loss_call import LossCall, loss_of
from autotrainer.backends.pytorch.watching.step_sampler import SampledSteps

__all__ = ["Count", "LossTracker", "is_kept"]

_KEPT_LOSSES = 128
"""Losses of unsampled steps that are kept until the next sample: the latest ones."""

_ALL_LOSSES, _LOSS_PERIOD, _LOSS_BURST = 256, 128, 16
"""Each of the first steps' losses is kept, then bursts of consecutive ones: detaching a loss is most of what watching
costs between samples, and bursts still show whether it alternates from step to step."""


def is_kept(step: int) -> bool:
    """Say whether the loss of a step is one of those that are kept between samples."""
    return step < _ALL_LOSSES or step % _LOSS_PERIOD < _LOSS_BURST


class Count:
    """What the two permanent hooks share: plain attributes, read and written at every step."""

    __slots__ = ("alert", "losses", "step", "wake")

    def __init__(self, step: int = 0) -> None:
        self.step = step
        """Steps done."""
        self.wake = 0
        """Number of steps done at which to look up."""
        self.alert = True
        """Whether the next training loss is more than a reference to be kept."""
        self.losses: deque[tuple[int, Tensor | float]] = deque(maxlen=_KEPT_LOSSES)


class LossTracker:
    """Sorts losses into those of training steps and those of evaluations.

    Args:
        model: The model.
        loss_fn: The loss.
        sampled: The sampled steps.
        count: Steps so far.
        evaluation: Takes the losses that belong to no training step.
        resumed: Called when a training step follows an evaluation.
        note: Called with the first call of the loss on the stack.
        fail: Takes an exception of our own code.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Any,
        sampled: SampledSteps,
        count: Count,
        evaluation: ValidationPass,
        resumed: Callable[[], None],
        note: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._model, self._loss_fn, self._sampled = model, loss_fn, sampled
        self._count, self._evaluation = count, evaluation
        self._resumed, self._note, self._fail = resumed, note, fail
        self._trains_in_eval = False
        self._vector_loss = False
        self._doubtful: LossCall | None = None
        self._doubts = 0
        self.call: LossCall | None = None
        """The call of the step that is being sampled, as far as it is known."""
        self.closed = False
        self.seconds = 0.0
        """Time taken since it was last set to zero."""

    def hook(self) -> Callable[..., None]:
        """Return what is to see each call of the loss module."""
        count, model, seen = self._count, self._model, self._see

        def on_loss(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
            if is_compiling():
                return  # a compiled step holds what is read here as constants
            if not count.alert and type(loss) is Tensor and loss.requires_grad and model.training:
                step = count.step
                if step < _ALL_LOSSES or step % _LOSS_PERIOD < _LOSS_BURST:
                    count.losses.append((step, loss.detach()))
            else:
                seen(module, args, kwargs, loss)

        return on_loss

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Take in what the user's loop tells."""
        started = perf_counter()
        if self._evaluation:
            self._resumed()
        if loss is not None:
            value = loss.detach() if isinstance(loss, Tensor) else float(loss)
            kept = value.float().mean() if isinstance(value, Tensor) and value.ndim else value
            self._count.losses.append((self._count.step, kept))
        if self._sampled.open:
            self._note()
        if self._sampled.open and (outputs is not None or targets is not None):
            with torch.no_grad():
                self.call = LossCall.told(outputs, targets, self.call).copied()
        self.seconds += perf_counter() - started

    def forget(self) -> None:
        """Drop the calls of the step before."""
        self.call, self._doubtful, self._doubts = None, None, 0

    def settle(self, step: int) -> None:
        """Decide what an ended sampled step's own loss was."""
        if self.call is None and self._doubtful is not None:
            # The model trains in evaluation mode: what looked like validation were this step's own losses.
            self._trains_in_eval = True
            self._evaluation.drop_last(self._doubts)
            self.call = self._doubtful
            self._count.losses.append((step, self.call.loss))

    def take(self) -> dict[int, Tensor | float]:
        """Return the losses kept since the last time, by step."""
        losses = dict(self._count.losses)
        self._count.losses.clear()
        return losses

    def set_alert(self) -> None:
        """Look closely at the next loss, or not."""
        self._count.alert = self._sampled.open or self._vector_loss or bool(self._evaluation)

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Take in a call of the loss module that is more than routine."""
        if self.closed or module is not self._loss_fn or is_compiling():
            return
        started = perf_counter()
        try:
            with torch.no_grad():
                loss = loss_of(output)
                if loss is not None:
                    self._sort(loss, LossCall.of(module, args, kwargs, loss, self._sampled.tracer.outputs))
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self.seconds += perf_counter() - started

    def _sort(self, loss: Tensor, call: LossCall) -> None:
        if loss.requires_grad and (self._model.training or self._trains_in_eval):
            if self._evaluation:
                self._resumed()
            self._vector_loss |= loss.ndim > 0
            self._count.losses.append((self._count.step, loss.detach().float().mean() if loss.ndim else loss.detach()))
            if self._sampled.open:
                self._note()
                self.call = call.copied()
        else:
            self._evaluation.add(loss, call.rows)
            if not (loss.requires_grad or self._sampled.compiled):
                self._sampled.modes.evaluated()
            if loss.requires_grad and self._sampled.open:
                self._doubtful = call.copied()
                self._doubts += 1
        self.set_alert()
