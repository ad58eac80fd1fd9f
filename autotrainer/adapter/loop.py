"""Trainings in the user's own loop: what a backend implements, and what the core provides for each one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Protocol

from autotrainer.adapter.observer import Recorder
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.adapter.spec import LoopObjects, Support, Trained, TrainingSpec
from autotrainer.adapter.trainer import Trainer
from autotrainer.edits import Edit
from autotrainer.records.task import TaskContext

__all__ = ["LoopRun", "LoopTrainer"]


class LoopRun(Protocol):
    """What the core provides to a `LoopTrainer` for one training."""

    @property
    def monitor(self) -> Recorder:
        """Receives what the backend's observer measures."""

    suspect: bool
    """Whether a value was not finite: if weights are not finite either, the loader must yield no more batches."""

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training with its edits, and the operations of one forward pass of one sample."""

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for a batch that is about to be used; False if the budget does not allow it."""


class LoopTrainer(ABC):
    """Creates the objects of trainings that the user's own loop runs, each from the same initial state.

    The first training uses the user's own objects, unchanged and with the current random states. Every other one uses
    copies of their initial state with the random states of the beginning, or copies of the checkpoint with its random
    states if the training starts in a later epoch.
    """

    given: LoopObjects
    """The user's own objects."""

    @abstractmethod
    def supports(self, edit: Edit) -> Support:
        """Return whether a training with this edit can be run, and if not, why. Called after the first training."""

    @abstractmethod
    def begin(self, spec: TrainingSpec, run: LoopRun) -> LoopObjects:
        """Return the objects of a training, observed by ``run.monitor``; those of the previous one raise `StateError`.

        Raises:
            ConfigError: If an edit can't be applied.
            InputError: If the objects do not belong together.
        """

    @abstractmethod
    def keep_point(self, epoch: int) -> bool:
        """Save the original training as it is right before an epoch, as the only checkpoint to start from later.

        Returns:
            False if it can't be saved; the previous checkpoint then remains.
        """

    @abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Mark the beginning of an epoch."""

    @abstractmethod
    def settle(self) -> bool:
        """Account for steps that did not use the loader, and return whether all weights are finite."""

    @abstractmethod
    def overruled(self) -> str:
        """Return, after `settle`, which edit the user's loop overrides, and why; empty if there is none."""

    @abstractmethod
    def end_epoch(self, badness: float) -> bool:
        """Do what the edits require at the end of an epoch, after `settle`.

        Args:
            badness: The score with its sign such that lower is better; NaN if there is none.

        Returns:
            Whether to continue the training.
        """

    @abstractmethod
    def end(self) -> Trained:
        """End the current training and return it."""

    def probed(self) -> ProbedModel | None:
        """Return a copy of the current model with the inputs of its first call, for probes; None, as by default, if
        there are none.

        Raises:
            NotProbedError: If the model can't be copied.
        """
        return None

    @abstractmethod
    def stand_in(self, loss: float) -> AbstractContextManager[tuple[Trainer, Trained] | None]:
        """Return a trainer that reproduces the original training without the user's loop, and a copy of its result.

        Diagnostics run on them. On exit all random states are restored, including those of the data.

        Args:
            loss: The first loss of the training in the user's loop.

        Returns:
            A context manager that yields None if the trainer does not do what the user's loop does: its first batch
            has another loss.
        """

    @abstractmethod
    def close(self) -> None:
        """Return the user's objects to the user: none of them raises `StateError` any more."""
