"""What a user's loop does by itself, so that no edit could do it otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autotrainer.backends.pytorch.loop.checkpoint import Checkpoint
from autotrainer.backends.pytorch.loop.loop_training import LoopTraining, rates_of
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

_OF_LOADERS = (SetBatchSize, ShuffleData, DropBadRows)
_OF_RATES = (SetLearningRate, SwapOptimizer, ReduceOnPlateau)
_RATE = "your own loop sets the learning rate: give Loop a scheduler, which follows repairs"


@dataclass(slots=True)
class UserLoop:
    """What was seen of the training as given, at the ends of its epochs.

    Attributes:
        reads_loader: Whether batches come from `Loop.train_loader`.
        sets_rate: Whether learning rates have changed without a scheduler.
        trains_elsewhere: Whether weights have changed that the optimizer does not have.
        counts_batches: Whether the scheduler is stepped more than once an epoch.
    """

    reads_loader: bool = False
    sets_rate: bool = False
    trains_elsewhere: bool = False
    counts_batches: bool = False
    _seen: bool = False

    def learn(self, training: LoopTraining, start: Checkpoint) -> None:
        """Look at the training as given at the end of an epoch.

        Args:
            training: The training.
            start: What it began with.
        """
        self.reads_loader |= training.batches > 0
        self.sets_rate |= _sets_rate(training)
        if not self._seen:  # once: it reads weights
            self._seen = True
            self.counts_batches = getattr(training.objects.scheduler, "last_epoch", 0) > 1 + start.scheduled
            self.trains_elsewhere = _trains_elsewhere(training, start)

    def overrules(self, training: LoopTraining) -> str:
        """Say why an edit of a repaired training is not in force, at the end of an epoch, or return an empty text."""
        if not any(isinstance(edit, _OF_RATES) for edit in training.objects.edits) or not _sets_rate(training):
            return ""
        self.sets_rate = True
        return _RATE

    def refusal(self, edit: Edit) -> str:
        """Say why an edit would not be in force, or return an empty text."""
        if self.trains_elsewhere:
            return "something else than the optimizer given trains a part of the model, and would not follow a repair"
        if isinstance(edit, _OF_LOADERS) and not self.reads_loader:
            return "your own loop takes its batches from elsewhere than loop.train_loader"
        if isinstance(edit, SetBatchSize) and self.counts_batches:
            return "your own loop steps its scheduler by batches, whose number would change"
        if isinstance(edit, _OF_RATES) and self.sets_rate:
            return _RATE
        return ""


def _sets_rate(training: LoopTraining) -> bool:
    """Say whether learning rates have changed since the beginning without a scheduler or an edit that moves them."""
    moved = any(isinstance(edit, Rollback) for edit in training.objects.edits)
    if moved or training.objects.scheduler is not None or training.scheduler is not None:
        return False
    return training.rates != rates_of(training.objects.optimizer)


def _trains_elsewhere(training: LoopTraining, start: Checkpoint) -> bool:
    owned = {id(p) for group in training.objects.optimizer.param_groups for p in group["params"]}
    before = dict(start.start.reference.named_parameters())
    for name, parameter in training.objects.model.named_parameters():
        if id(parameter) in owned or not parameter.requires_grad or name not in before:
            continue
        if parameter.shape == before[name].shape and not torch.equal(parameter.detach().cpu(), before[name].cpu()):
            return True
    return False
