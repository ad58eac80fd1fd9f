"""Callbacks of edits, which act at the beginning and end of the epochs of a managed training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.edits import ResetOptimizerState, Rollback

__all__ = ["RollbackCallback", "StateResetCallback", "TrainingCallback"]


class TrainingCallback:
    """Acts at the epochs of one training; this base class does nothing."""

    def begin_epoch(self, epoch: int) -> None:
        """Act before the first batch of an epoch."""

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Act at the end of an epoch with this mean loss, before it is evaluated."""


class RollbackCallback(TrainingCallback):
    """Restores the best epoch when the training loss has become bad; see `Rollback`."""

    def __init__(self, model: Any, edit: Rollback) -> None:
        self._model, self._edit = model, edit
        self._first = self._best = math.nan
        self._stored: list[NDArray[Any]] | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Store the initial state: the first epoch may be bad."""
        optimizer = self._model.optimizer
        if not optimizer.built:
            optimizer.build(self._model.trainable_variables)
        if self._stored is None:
            self._stored = self._state()

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Store a good epoch, undo a bad one."""
        if math.isnan(self._first) and math.isfinite(loss):
            self._first = self._best = loss
        if self._edit.is_setback(loss, best=self._best, first=self._first):
            self._restore()
        elif loss <= self._best:
            self._best, self._stored = loss, self._state()

    def _variables(self) -> list[Any]:
        return [*self._model.weights, *self._model.optimizer.variables]

    def _state(self) -> list[NDArray[Any]]:
        return [np.array(ops.convert_to_numpy(v)) for v in self._variables()]

    def _restore(self) -> None:
        rate = float(ops.convert_to_numpy(self._model.optimizer.learning_rate)) * self._edit.shrink
        assert self._stored is not None
        for variable, value in zip(self._variables(), self._stored, strict=True):
            variable.assign(value)
        self._model.optimizer.learning_rate = rate


class StateResetCallback(TrainingCallback):
    """Resets the optimizer's state; see `ResetOptimizerState`. Each training starts with a fresh optimizer anyway."""

    def __init__(self, model: Any, edit: ResetOptimizerState) -> None:
        self._model, self._every = model, edit.every

    def begin_epoch(self, epoch: int) -> None:
        """Set the optimizer's variables to those of a fresh one, except for the learning rate."""
        if not self._every or not epoch or epoch % self._every:
            return
        optimizer = inner_optimizer(self._model.optimizer)
        fresh = type(optimizer).from_config(optimizer.get_config())
        fresh.build(optimizer._trainable_variables)
        for variable, value in zip(optimizer.variables, fresh.variables, strict=True):
            if variable is not optimizer._learning_rate:
                variable.assign(ops.convert_to_numpy(value))
