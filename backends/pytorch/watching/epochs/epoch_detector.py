"""Decides where the epochs of a plain training loop end, which no call shows.

The strongest sign counts: a data loader that starts again, else one tensor that every step gets (each step is then an
epoch), else an evaluation that is followed by further steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import ref

import torch
from torch import nn

from autotrainer.backends.pytorch.watching.losses.loss_tracker import StepCounter

__all__ = ["EpochDetector"]

_MOST_STARTS = 8
"""Latest starts of loaders that may turn out to feed the training."""

_RESTARTS = 10
"""Consecutive steps in each of which a loader starts anew from which that is how the loop reads it."""

_ROUTINE = 5
"""Evaluations that follow each other at a distance of one step from which they are part of the steps."""


class _Pass:
    """One pass of a loader: its start, as a number of steps done, and whether it is still going on.

    Args:
        loader: The loader; None if nobody else uses it.
        iterator: Its iterator; one with persistent workers serves all passes.
        start: Steps done.
        in_training: Whether the model was in training mode.
    """

    def __init__(self, loader: Any, iterator: Any, start: int, in_training: bool) -> None:
        self._loader = ref(iterator) if loader is None else ref(loader)
        self._iterator, self.start, self.in_training = ref(iterator), start, in_training
        self._length = math.inf
        with suppress(Exception):  # an iterable dataset, or an iterator of another library
            self._length = len(iterator)

    @property
    def batches(self) -> float:
        """Batches that it has delivered; NaN if unknown."""
        return float(getattr(self._iterator(), "_num_yielded", math.nan))

    @property
    def length(self) -> float:
        """Batches of the whole pass; infinite if unknown."""
        return self._length

    @property
    def held(self) -> bool:
        """Whether the loop still holds the iterator."""
        return self._iterator() is not None

    @property
    def going_on(self) -> bool:
        """Whether the loop holds the iterator, and there are batches left."""
        return self.held and not self.batches >= self._length

    @property
    def delivers(self) -> bool:
        """Whether it is going on and has begun to deliver batches."""
        return self.going_on and self.batches != 0

    @property
    def loader_exists(self) -> bool:
        """Whether the loader may start again."""
        return self._loader() is not None

    def is_of(self, loader: Any) -> bool:
        """Return whether it is a pass of this loader."""
        return self._loader() is loader

    def same_loader(self, other: _Pass) -> bool:
        """Return whether another pass is of the same loader."""
        return self.loader_exists and other.is_of(self._loader())


class EpochDetector:
    """Detects the ends of epochs of one training.

    Args:
        model: The model, which must outlive this object.
        counter: Steps so far; it is woken for the first step of each pass.
        end: Called at the end of an epoch, with the number of steps done by then.
    """

    def __init__(self, model: nn.Module, counter: StepCounter, end: Callable[[int], None]) -> None:
        self._modules = [model, *(model.children() if isinstance(model, nn.ModuleList) else ())]
        self._counter, self._end = counter, end
        self._starts: list[_Pass] = []
        self._pass: _Pass | None = None  # of the loader that feeds the training
        self._batches = math.nan  # that it had delivered before the first of these starts
        self._cycle: list[_Pass] = []  # passes in the present epoch, if several loaders follow each other in each
        self._evaluated: int | None = None  # steps done before the latest evaluation, if it may be the end of an epoch
        self._latest = -2  # steps done before the latest evaluation
        self._in_a_row = 0  # consecutive steps with an evaluation
        self._epoch_start = counter.step
        self._restarted: tuple[ref[Any], int, int] | None = None  # latest loader, steps done at its start, restarts
        self.restarted_batches = math.nan
        """Batches of a loader that starts anew in each step, which takes one of them; NaN if there is none."""
        self.full_batch = False
        """Whether every step is an epoch, as all get the same tensor."""
        self.waiting = False
        """Whether `stepped` is to be called after the next step."""
        self.stopped = False
        self.reported = False
        """Whether all ends of epochs are reported, so that none is detected."""

    @property
    def follows_loader(self) -> bool:
        """Whether a loader shows the epochs."""
        return self._pass is not None

    @property
    def batches(self) -> tuple[float, float]:
        """Batches that the loader of the training has delivered in its present pass, and those of a whole pass."""
        feeding = self._pass
        return (math.nan, math.nan) if feeding is None else (feeding.batches, feeding.length)

    # -- signals --------------------------------------------------------------------------------------------------

    def loader_started(self, loader: Any, iterator: Any) -> None:
        """A loader begins to deliver batches; without gradients, it is for an evaluation."""
        if not torch.is_grad_enabled():
            return
        if loader is not None:
            self._note_restart(loader, iterator)
        if self.stopped:
            return
        step = self._counter.step
        if step > self._epoch_start and any(each.is_of(loader) for each in self._cycle):
            self._end_at(step)
        if not self._starts:
            self._batches = math.nan if self._pass is None else self._pass.batches
        in_training = any(module.training for module in self._modules)
        self._starts = [*self._starts[1 - _MOST_STARTS :], _Pass(loader, iterator, step, in_training)]
        self._wake()

    def evaluation_began(self, module: nn.Module) -> None:
        """A module was put into evaluation mode: if it is the model, that begins an evaluation."""
        if any(module is each for each in self._modules):
            self.evaluated()

    def passed_without_gradients(self) -> None:
        """The model was called without gradients: for an evaluation, or for the step itself, as for its targets."""
        self._note_evaluation(certain=not any(module.training for module in self._modules))

    def evaluated(self) -> None:
        """The model is evaluated."""
        self._note_evaluation(certain=True)

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
        feeding = self._feeding_pass()
        self._starts = []
        if feeding is not None:
            previous, self._pass = self._pass, feeding
            own_loader = previous is not None and not (previous.going_on or previous.loader_exists)
            if own_loader and feeding.start > self._epoch_start:
                self._end_at(feeding.start)  # each epoch has a loader of its own
            self._cycle.append(feeding)
        if self._evaluated is not None and self._evaluated < step:
            self.resumed()

    def finish(self, *, interrupted: bool) -> int | None:
        """Return the steps done at the end of the last epoch of a training that has ended; None if there is no such.

        Args:
            interrupted: Whether an exception has ended the training: an evaluation was still the end of an epoch.
        """
        step = self._counter.step
        if self.stopped or self.reported or step <= self._epoch_start:
            return None
        if self._pass is not None:
            return None if interrupted or self._pass.going_on else step
        return self._evaluated

    def restart(self, step: int) -> None:
        """Count the present epoch from this number of steps on."""
        self._epoch_start, self._evaluated = step, None

    def _note_restart(self, loader: Any, iterator: Any) -> None:
        """Count in how many steps in a row a loader has started anew."""
        step, before = self._counter.step, self._restarted
        restarts = before[2] + 1 if before is not None and before[0]() is loader and step == before[1] + 1 else 0
        self._restarted = ref(loader), step, restarts
        if restarts == _RESTARTS:
            self.restarted_batches = _Pass(loader, iterator, step, in_training=True).length
        elif restarts < _RESTARTS:
            self.restarted_batches = math.nan

    # -- internal -------------------------------------------------------------------------------------------------

    def _feeding_pass(self) -> _Pass | None:
        """Return which of the passes that have started since the latest call feeds the training; None if none does.

        A pass that goes on feeding it is not replaced. A pass that began in evaluation mode and has ended was for an
        evaluation, even if its iterator still exists, as with persistent workers.
        """
        now, held = self._pass, [each for each in self._starts if each.held]
        if now is not None and now.going_on and now.batches != self._batches:
            fitting = [each for each in held if each.same_loader(now)]
        else:
            fitting = [e for e in held if now is None or e.in_training or e.delivers or e.same_loader(now)]
        return max(reversed(fitting), key=lambda each: (each.delivers, each.in_training), default=None)

    def _note_evaluation(self, *, certain: bool) -> None:
        step = self._counter.step
        if step != self._latest and self._in_a_row < _ROUTINE:
            self._in_a_row = self._in_a_row + 1 if step == self._latest + 1 else 0
        self._latest = step
        in_each_step = self._in_a_row >= (1 if not certain else _ROUTINE) and not self.full_batch
        if not (self.stopped or in_each_step) and step > self._epoch_start and self._evaluated != step:
            self._evaluated = step
            self._wake()

    def _end_at(self, step: int) -> None:
        self._cycle = []
        self.restart(step)
        if not self.reported:
            self._end(step)

    def _wake(self) -> None:
        self.waiting = True
        self._counter.wake_step = min(self._counter.wake_step, self._counter.step + 1)
