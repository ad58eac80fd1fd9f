"""The objects that the user's loop uses."""

from __future__ import annotations

from typing import Any

from autotrainer.adapter.spec import LoopObjects

__all__ = ["ObjectsInUse"]


class ObjectsInUse:
    """Access to the objects of the current training; after the last one, to those of the best."""

    _objects: LoopObjects

    @property
    def model(self) -> Any:
        """The model of the current training."""
        return self._objects.model

    @property
    def optimizer(self) -> Any:
        """The optimizer of the current training."""
        return self._objects.optimizer

    @property
    def loss_fn(self) -> Any:
        """The loss of the current training."""
        return self._objects.loss_fn

    @property
    def train_loader(self) -> Any:
        """The training batches; iterate over them with ``for``, as they end early if the training is abandoned."""
        return self._objects.loader

    @property
    def scheduler(self) -> Any:
        """The user's scheduler for the current optimizer; None without one."""
        return self._objects.scheduler

    @property
    def scaler(self) -> Any:
        """The gradient scaler of the current training; None without one."""
        return self._objects.scaler
