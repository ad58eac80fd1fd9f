"""Decides where the epochs of a plain training loop end, which no call shows.

The strongest sign counts: a data loader that starts again, else one tensor that every step gets (each step is then an
epoch), else an evaluation that is followed by further steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import nn

from autotrainer.backends.pytorch.watching.loss_tracker import StepCounter

__all__ = ["EpochDetector"]

_MOST_STARTS = 8
"""Latest starts of loaders that may turn out to feed the training."""


class _Pass:
    """One pass of a loader: its start, as a number of steps done, and whether it is still going on."""

    def __init__(self, loader: Any, iterator: Any, start: int) -> None:
        self._loader = ref(iterator) if loader is None else ref(loader)
        self._iterator, self.start = ref(iterator), start

    @property
    def going_on(self) -> bool:
        """Whether the loop still holds the iterator."""
        return self._iterator() is not None

    def is_of(self, loader: Any) -> bool:
        """Return whether it is a pass of this loader."""
        return self._loader() is loader


class EpochDetector:
    """Detects the ends of epochs of one training.

    Args:
        model: The model, which must outlive this object.
        counter: Steps so far; it is woken for the first step of each pass.
        end: Called at the end of an epoch, with the number of steps done by then.
    """

    def __init__(self, model: nn.Module, counter: StepCounter, end: Callable[[int], None]) -> None:
        parts = model.children() if isinstance(model, nn.ModuleList) else ()
        self._modules = {id(model), *map(id, parts)}
        self._counter, self._end = counter, end
        self._starts: list[_Pass] = []
        self._pass: _Pass | None = None  # of the loader that feeds the training
        self._evaluated: int | None = None  # steps done before the latest evaluation
        self._epoch_start = counter.step
        self.full_batch = False
        """Whether every step is an epoch, as all get the same tensor."""
        self.waiting = False
        """Whether `stepped` is to be called after the next step."""
        self.stopped = False

    @property
    def follows_loader(self) -> bool:
        """Whether a loader shows the epochs."""
        return self._pass is not None

    # -- signals --------------------------------------------------------------------------------------------------

    def loader_started(self, loader: Any, iterator: Any) -> None:
        """A loader begins to deliver batches; without gradients, it is for an evaluation."""
        if self.stopped or not torch.is_grad_enabled():
            return
        step = self._counter.step
        if self._pass is not None and self._pass.is_of(loader) and step > self._epoch_start:
            self._end_at(step)
        self._starts = [*self._starts[1 - _MOST_STARTS :], _Pass(loader, iterator, step)]
        self._wake()

    def mode_changed(self, module: nn.Module, training: bool) -> None:
        """The model was put into another mode: evaluation mode begins an evaluation."""
        if not training and id(module) in self._modules:
            self.evaluated()

    def evaluated(self) -> None:
        """The model is evaluated."""
        if not self.stopped and self._counter.step > self._epoch_start and self._evaluated != self._counter.step:
            self._evaluated = self._counter.step
            self._wake()

    def resumed(self) -> None:
        """The training goes on: an evaluation before was the end of an epoch, if nothing else shows the epochs."""
        at, self._evaluated = self._evaluated, None
        if at is not None and not (self.stopped or self.follows_loader):
            self._end_at(at)

    def stepped(self, step: int) -> None:
        """The first step after a signal has been taken.

        Args:
            step: Steps done.
        """
        self.waiting = False
        feeding = next((each for each in reversed(self._starts) if each.going_on), None)
        self._starts = []
        if feeding is not None:
            previous, self._pass = self._pass, feeding
            if previous is not None and not previous.going_on and feeding.start > self._epoch_start:
                self._end_at(feeding.start)  # each epoch has a loader of its own
        if self._evaluated is not None and self._evaluated < step:
            self.resumed()

    def finish(self, *, interrupted: bool) -> int | None:
        """Return the steps done at the end of the last epoch of a training that has ended; None if there is no such.

        Args:
            interrupted: Whether an exception has ended the training: an evaluation was still the end of an epoch.
        """
        step = self._counter.step
        if self.stopped or step <= self._epoch_start:
            return None
        if self._pass is not None:
            return None if interrupted or self._pass.going_on else step
        return self._evaluated

    # -- internal -------------------------------------------------------------------------------------------------

    def restart(self, step: int) -> None:
        """Count the present epoch from this number of steps on."""
        self._epoch_start, self._evaluated = step, None

    def _end_at(self, step: int) -> None:
        self.restart(step)
        self._end(step)

    def _wake(self) -> None:
        self.waiting = True
        self._counter.wake_step = min(self._counter.wake_step, self._counter.step + 1)
