"""One training in the user's own loop: its objects, its progress, and its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from autotrainer.adapter.loop import LoopRun
from autotrainer.adapter.spec import LoopObjects
from autotrainer.backends.pytorch.data.loaders import rows_of
from autotrainer.backends.pytorch.training.best_weights import BestWeights
from autotrainer.backends.pytorch.training.callback_hooks import CallbackHooks
from autotrainer.errors import DataError

__all__ = ["LoopLoader", "LoopTraining", "rates_of"]


def rates_of(optimizer: Optimizer) -> list[float]:
    """Return the learning rates of an optimizer's groups, 0 for a group without one."""
    return [float(group.get("lr", 0.0)) for group in optimizer.param_groups]


@dataclass(slots=True)
class LoopTraining:
    """One training in the user's own loop.

    Attributes:
        objects: The objects that the user's loop uses.
        run: The core's side of it.
        scheduler: Scheduler of an edit, or None.
        best: The best weights, if an edit asks for them.
        callback_hooks: Runs the callbacks of edits, or None.
        handles: Handles that remove hooks.
        epoch: The current epoch.
        epoch_trained: Whether the training part of that epoch is over.
        steps: Optimizer steps since they were last accounted for.
        batches: Batches of the loader since then.
        rates: Initial learning rates.
        first_batch: The first batch that was trained on; None before.
    """

    objects: LoopObjects
    run: LoopRun
    scheduler: Any = None
    best: BestWeights = field(default_factory=lambda: BestWeights(None))
    callback_hooks: CallbackHooks | None = None
    handles: list[Any] = field(default_factory=list)
    epoch: int = 0
    epoch_trained: bool = False
    steps: int = 0
    batches: int = 0
    rates: list[float] = field(default_factory=list)
    first_batch: Any = None

    def count_steps(self) -> None:
        """Count the optimizer's steps from now on."""

        def count(*_: Any) -> None:
            self.steps += 1

        self.handles.append(self.objects.optimizer.register_step_post_hook(count))

    def begin_epoch(self, epoch: int) -> None:
        """Run the callbacks of edits at the beginning of an epoch."""
        self.epoch, self.epoch_trained = epoch, False
        if self.callback_hooks is not None:
            self.callback_hooks.begin_epoch(epoch)

    def end_training(self) -> None:
        """Run the callbacks of edits, once an epoch, when only its evaluation is left."""
        if not self.epoch_trained and self.callback_hooks is not None:
            self.callback_hooks.end_epoch(self.epoch)
        self.epoch_trained = True

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
    """The training batches of the user's loop; ends early if a repair or the budget ends the training.

    All other attributes are those of the loader itself: ``len``, ``batch_size``, ``dataset``, ….
    """

    def __init__(self, training: LoopTraining) -> None:
        self._training = training

    def __iter__(self) -> Iterator[Any]:
        training, run = self._training, self._training.run
        empty, is_training = True, False
        for batch in training.objects.loader:
            empty = False
            is_training = training.objects.model.training  # otherwise the user's loop evaluates on training data
            if is_training:
                if (run.suspect and not training.finite) or not run.spend(rows_of(batch), training=True):
                    break
                training.batches += 1
                training.first_batch = batch if training.first_batch is None else training.first_batch
            yield batch
        if empty:
            raise DataError(
                f"train_loader: the {type(training.objects.loader).__name__} yields no batch: it is empty, or can be "
                "read only once"
            )
        if is_training:
            training.end_training()

    def __len__(self) -> int:
        return len(self._training.objects.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_training":
            raise AttributeError(name)
        return getattr(self._training.objects.loader, name)
