"""Checkpoints from which trainings in a user's loop begin: the initial state, or a later epoch of the original one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from torch.optim import Optimizer

from autotrainer.adapter.spec import LoopObjects
from autotrainer.backends.pytorch.data.random_generators import RandomGenerators
from autotrainer.backends.pytorch.optim.schedulers import scheduler_maker
from autotrainer.backends.pytorch.runtime.host_offload import copied_to_host
from autotrainer.backends.pytorch.runtime.random_state import RandomState
from autotrainer.backends.pytorch.training.initial_state import InitialState

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state from which a training begins, in host memory.

    Attributes:
        epoch: The first epoch of such a training.
        initial_state: Makes model, optimizer and loss.
        scheduler: callable(optimizer) that makes the user's scheduler in its state; or None.
        scheduler_steps: Steps that the scheduler has taken.
        random_state: Global random states.
        generators: The loader's own generators, with their states.
    """

    epoch: int
    initial_state: InitialState
    scheduler: Callable[[Optimizer], Any] | None
    scheduler_steps: int
    random_state: RandomState
    generators: RandomGenerators
    _scaler: Any

    @classmethod
    def of(cls, objects: LoopObjects, epoch: int, scheduler: Any = None) -> Self:
        """Copy the objects of a training in their current state.

        Args:
            objects: The objects.
            epoch: The epoch that is about to begin.
            scheduler: Scheduler, or callable(optimizer), to use instead of that of the objects; None for theirs.

        Raises:
            InputError: If they can't be copied.
        """
        user_scheduler = objects.scheduler if scheduler is None else scheduler
        return cls(
            epoch,
            InitialState.of_module(objects.model, objects.optimizer, objects.loss_fn),
            scheduler_maker(user_scheduler, objects.optimizer),
            int(getattr(user_scheduler, "last_epoch", 0)),
            RandomState.now(),
            RandomGenerators.of(objects.loader),
            copied_to_host((objects.scaler,))[0][0],
        )

    def with_current_randomness(self) -> Self:
        """Return the same checkpoint with the current random states."""
        return replace(self, random_state=RandomState.now(), generators=self.generators.now())

    def scaler(self) -> Any:
        """Return a fresh gradient scaler, or None."""
        return copied_to_host((self._scaler,))[0][0]
