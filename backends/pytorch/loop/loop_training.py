"""One training in the user's own loop: its objects, what belongs to it besides, and its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from autotrainer.adapter.backend import LoopRun
from autotrainer.adapter.spec import LoopObjects
from autotrainer.backends.pytorch.data.batches import rows_of
from autotrainer.backends.pytorch.training.best_weights import BestWeights
from autotrainer.backends.pytorch.training.callback_hooks import CallbackHooks

__all__ = ["LoopLoader", "LoopTraining", "rates_of"]


def rates_of(optimizer: Optimizer) -> list[float]:
    """Return the learning rates of an optimizer's groups, 0 where there is none."""
    return [float(group.get("lr", 0.0)) for group in optimizer.param_groups]


@dataclass(slots=True)
class LoopTraining:
    """One training in the user's own loop.

    Attributes:
        objects: The objects that the user's loop uses.
        run: The core's side of it.
        scheduler: Scheduler of an edit, or None.
        best: The best weights, where an edit wants them.
        accompanied: Companions of edits, or None.
        handles: What takes hooks off again.
        epoch: The present epoch.
        over: Whether the training of that epoch is over.
        steps: Optimizer steps since they were last accounted for.
        batches: Batches of the loader since then.
        first: The first batch that was trained on; None before.
        rates: Learning rates that it began with.
    """

    objects: LoopObjects
    run: LoopRun
    scheduler: Any = None
    best: BestWeights = field(default_factory=lambda: BestWeights(None))
    accompanied: CallbackHooks | None = None
    handles: list[Any] = field(default_factory=list)
    epoch: int = 0
    over: bool = False
    steps: int = 0
    batches: int = 0
    rates: list[float] = field(default_factory=list)
    first: Any = None

    def count_steps(self) -> None:
        """Count the optimizer's steps from here on."""

        def count(*_: Any) -> None:
            self.steps += 1

        self.handles.append(self.objects.optimizer.register_step_post_hook(count))

    def begin_epoch(self, epoch: int) -> None:
        """Tell the edits that an epoch begins."""
        self.epoch, self.over = epoch, False
        if self.accompanied is not None:
            self.accompanied.begin_epoch(epoch)

    def end_training(self) -> None:
        """Tell the edits, once an epoch, that its training is over; what comes is its evaluation."""
        if not self.over and self.accompanied is not None:
            self.accompanied.end_epoch(self.epoch)
        self.over = True

    @property
    def finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(torch.isfinite(p).all()) for p in self.objects.model.parameters())

    def detach(self) -> None:
        """Remove every hook."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


class LoopLoader:
    """The training batches of the user's loop; ends early where a repair, or the budget, ends the training.

    Everything else is what the loader itself has: ``len``, ``batch_size``, ``dataset``, ….
    """

    def __init__(self, training: LoopTraining) -> None:
        self._training = training

    def __iter__(self) -> Iterator[Any]:
        whole, run = self._training, self._training.run
        trains = False
        for batch in whole.objects.loader:
            trains = whole.objects.model.training  # else the user's loop evaluates on training data
            if trains:
                if (run.suspect and not whole.finite) or not run.spend(rows_of(batch), training=True):
                    break
                whole.batches += 1
                whole.first = batch if whole.first is None else whole.first
            yield batch
        if trains:
            whole.end_training()

    def __len__(self) -> int:
        return len(self._training.objects.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_training":
            raise AttributeError(name)
        return getattr(self._training.objects.loader, name)
