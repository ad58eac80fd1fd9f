"""What a user's loop does by itself, so that an edit of it would have no effect."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autotrainer.backends.pytorch.loop.checkpoint import Checkpoint
from autotrainer.backends.pytorch.loop.loop_training import LoopTraining, rates_of
from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.edits import (
    DropBadRows,
    Edit,
    ReduceOnPlateau,
    Rollback,
    SetBatchSize,
    SetLearningRate,
    ShuffleData,
    SwapOptimizer,
)

__all__ = ["UserLoop"]

_LOADER_EDITS = (SetBatchSize, ShuffleData, DropBadRows)
_RATE_EDITS = (SetLearningRate, SwapOptimizer, ReduceOnPlateau)
_SETS_RATE = "your own loop sets the learning rate: give Loop a scheduler, which follows repairs"


@dataclass(slots=True)
class UserLoop:
    """What the user's loop does, observed in the original training at the ends of epochs.

    Attributes:
        reads_loader: Whether batches come from `Loop.train_loader`.
        sets_rate: Whether learning rates have changed without a scheduler.
        trains_elsewhere: Whether weights outside the optimizer have changed.
        counts_batches: Whether the scheduler is stepped more than once an epoch.
    """

    reads_loader: bool = False
    sets_rate: bool = False
    trains_elsewhere: bool = False
    counts_batches: bool = False
    _weights_compared: bool = False

    def observe_epoch(self, training: LoopTraining, initial: Checkpoint) -> None:
        """Observe the original training at the end of an epoch.

        Args:
            training: The training.
            initial: The checkpoint from which it began.
        """
        self.reads_loader |= training.batches > 0
        self.sets_rate |= _sets_rate(training)
        if not self._weights_compared:  # once: comparing weights takes time
            self._weights_compared = True
            self.counts_batches = getattr(training.objects.scheduler, "last_epoch", 0) > 1 + initial.scheduler_steps
            self.trains_elsewhere = _trains_elsewhere(training, initial)

    def overrides(self, training: LoopTraining) -> str:
        """Return why an edit of a repaired training has no effect, at the end of an epoch, or an empty string."""
        if not any(isinstance(edit, _RATE_EDITS) for edit in training.objects.edits) or not _sets_rate(training):
            return ""
        self.sets_rate = True
        return _SETS_RATE

    def refusal(self, edit: Edit) -> str:
        """Return why an edit would have no effect, or an empty string."""
        if self.trains_elsewhere:
            return "something other than the given optimizer trains a part of the model, and would not follow a repair"
        if isinstance(edit, _LOADER_EDITS) and not self.reads_loader:
            return "your own loop does not take its batches from loop.train_loader"
        if isinstance(edit, SetBatchSize) and self.counts_batches:
            return "your own loop steps its scheduler after each batch, and the number of batches would change"
        if isinstance(edit, _RATE_EDITS) and self.sets_rate:
            return _SETS_RATE
        return ""


def _sets_rate(training: LoopTraining) -> bool:
    """Return whether learning rates have changed since the beginning without a scheduler or an edit that does so."""
    rolled_back = any(isinstance(edit, Rollback) for edit in training.objects.edits)
    if rolled_back or training.objects.scheduler is not None or training.scheduler is not None:
        return False
    return training.rates != rates_of(training.objects.optimizer)


def _trains_elsewhere(training: LoopTraining, initial: Checkpoint) -> bool:
    owned = parameter_ids(training.objects.optimizer)
    before = dict(initial.initial_state.reference.named_parameters())
    for name, parameter in training.objects.model.named_parameters():
        if id(parameter) in owned or not parameter.requires_grad or name not in before:
            continue
        if parameter.shape == before[name].shape and not torch.equal(parameter.detach().cpu(), before[name].cpu()):
            return True
    return False
