"""What the user's own loop uses: the objects of the training that runs."""

from __future__ import annotations

from typing import Any

from autotrainer.adapter.spec import LoopObjects

__all__ = ["ObjectsInUse"]


class ObjectsInUse:
    """Hands out the objects of the training that runs; after the last one, those of the best."""

    _objects: LoopObjects

    @property
    def model(self) -> Any:
        """The model in use."""
        return self._objects.model

    @property
    def optimizer(self) -> Any:
        """The optimizer in use."""
        return self._objects.optimizer

    @property
    def loss_fn(self) -> Any:
        """The loss in use."""
        return self._objects.loss_fn

    @property
    def train_loader(self) -> Any:
        """The training batches; they end early where the training is given up, so iterate over them with ``for``."""
        return self._objects.loader

    @property
    def scheduler(self) -> Any:
        """The user's scheduler, for the optimizer in use; None without one."""
        return self._objects.scheduler

    @property
    def scaler(self) -> Any:
        """The gradient scaler in use; None without one."""
        return self._objects.scaler
