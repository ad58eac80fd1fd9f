"""The loss of the steps between samples, where no loss module shows its calls."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from autotrainer.backends.pytorch.runtime.backward_signal import add_backward_listener, remove_backward_listener
from autotrainer.backends.pytorch.runtime.torch_private import dispatch_modes, function_modes, has_transforms
from autotrainer.backends.pytorch.watching.losses.loss_tracker import StepCounter, is_kept

__all__ = ["UnsampledLoss"]

_CONFIRMED = 2
"""Sampled steps in a row that must have had a single backward pass, from the loss of the model."""


class UnsampledLoss:
    """Notes what the backward pass of a step starts from, once sampled steps have shown that this is the loss.

    It stops for good at a step with two backward passes: which of them belongs to the model is only known from the
    graph, and to walk that in each step would take too long.

    Args:
        counter: Takes the losses.
    """

    def __init__(self, counter: StepCounter) -> None:
        self._counter = counter
        self._confirmed = 0
        self._function = ""  # the operation that computed the loss
        self._step = -1
        self._stopped = False

    def confirm(self, function: str | None) -> None:
        """Begin to listen after a sampled step, if that and those before it show where the loss comes from.

        Args:
            function: Name of the operation that computed the loss of the step; None if its backward pass does not show
                the loss, or there were several.
        """
        if function is None or (self._function and function != self._function):
            self.stop()
            return
        self._function = function
        self._confirmed += 1
        if self._confirmed >= _CONFIRMED and not self._stopped:
            add_backward_listener(self)

    def pause(self) -> None:
        """Listen no longer, as of the sampled step that begins."""
        remove_backward_listener(self)

    def stop(self) -> None:
        """Listen no longer."""
        self._stopped = True
        remove_backward_listener(self)

    def backward_started(self, tensors: Any) -> None:
        """Note the loss of a step; see `BackwardListener`."""
        counter = self._counter
        step = counter.step
        if type(tensors) is not Tensor or step == self._step:
            self.stop()
            if counter.losses and counter.losses[-1][0] == step:
                counter.losses.pop()
            return
        self._step = step
        if tensors.ndim or function_modes() or dispatch_modes() or has_transforms():
            return  # nothing that the user's modes would see
        if tensors.grad_fn is None or tensors.grad_fn.name() != self._function:
            return  # another loss
        if is_kept(step):
            counter.keep(tensors.detach())
        else:
            counter.note(tensors)
