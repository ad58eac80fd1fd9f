"""Where trainings in a user's loop begin: at the start as given, or at a later point of the training as given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from torch.optim import Optimizer

from autotrainer.adapter.spec import LoopObjects
from autotrainer.backends.pytorch.data.generators import Generators
from autotrainer.backends.pytorch.optim.schedulers import scheduler_maker
from autotrainer.backends.pytorch.runtime.host_offload import copied_to_host
from autotrainer.backends.pytorch.runtime.random_state import RandomState
from autotrainer.backends.pytorch.training.initial_state import InitialState

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a training begins with, in host memory.

    Attributes:
        epoch: Epoch that it begins with.
        start: Makes model, optimizer and loss.
        scheduler: Makes the user's scheduler, as far as it has come; or None.
        scheduled: Steps that it has taken.
        state: Global random states.
        generators: The loader's own generators, with their states.
    """

    epoch: int
    start: InitialState
    scheduler: Callable[[Optimizer], Any] | None
    scheduled: int
    state: RandomState
    generators: Generators
    _scaler: Any

    @classmethod
    def of(cls, objects: LoopObjects, epoch: int, scheduler: Any = None) -> Self:
        """Copy the objects of a training as they are.

        Args:
            objects: The objects.
            epoch: The epoch that is about to begin.
            scheduler: Scheduler, or callable that makes one, in place of that of the objects; None for theirs.

        Raises:
            InputError: If they can't be copied.
        """
        schedule = objects.scheduler if scheduler is None else scheduler
        return cls(
            epoch,
            InitialState.of_module(objects.model, objects.optimizer, objects.loss_fn),
            scheduler_maker(schedule, objects.optimizer),
            int(getattr(schedule, "last_epoch", 0)),
            RandomState.now(),
            Generators.of(objects.loader),
            copied_to_host((objects.scaler,))[0][0],
        )

    def here(self) -> Self:
        """Return the same point with the random states of now."""
        return replace(self, state=RandomState.now(), generators=self.generators.now())

    def scaler(self) -> Any:
        """Return a fresh gradient scaler, or None."""
        return copied_to_host((self._scaler,))[0][0]
