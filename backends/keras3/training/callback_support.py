"""Which edits of the training procedure fit the original training, and the callbacks that carry them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras

from autotrainer.backends.keras3.model.optimizers import inner_optimizer
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.optimizer_edits import check_optimizer_edit
from autotrainer.backends.keras3.training.callbacks import (
    RollbackCallback,
    StateResetCallback,
    TrainingCallback,
)
from autotrainer.backends.keras3.training.redo import RedoCallback, revivable
from autotrainer.edits import (
    CompleteOptimizer,
    DecayRate,
    Edit,
    ExtendTraining,
    ReduceOnPlateau,
    ResetOptimizerState,
    RestoreZeroGrad,
    ReviveUnits,
    Rollback,
    SetMode,
    SkipUpdates,
    WarmUpRate,
)
from autotrainer.errors import ConfigError

__all__ = ["callbacks_of", "can_set_rate", "check_training_edit", "with_length"]

_NOT_NEEDED = {
    CompleteOptimizer: "which weights are updated is up to the training step, not to a Keras optimizer",
    RestoreZeroGrad: "Keras computes new gradients in each step",
    SetMode: "Keras sets the mode itself: let your own call() take `training` and pass it on",
}


def can_set_rate(optimizer: Any) -> bool:
    """Return whether the learning rate of an optimizer can be set: it follows no schedule."""
    return not isinstance(inner_optimizer(optimizer)._learning_rate, keras.optimizers.schedules.LearningRateSchedule)


def check_training_edit(edit: Edit, optimizer: Any, steps: int | None, epochs: int, editor: Editor) -> None:
    """Check an edit of the training procedure against the original training.

    Args:
        edit: The edit; other edits are ignored.
        optimizer: The original optimizer.
        steps: Steps per epoch; None if unknown.
        epochs: Epochs of the training.
        editor: The original model.

    Raises:
        ConfigError: If it does not fit; the message says why.
    """
    if type(edit) in _NOT_NEEDED:
        raise ConfigError(_NOT_NEEDED[type(edit)])
    settable = can_set_rate(optimizer)
    if isinstance(edit, ReduceOnPlateau | Rollback) and not settable:
        raise ConfigError("the optimizer follows a learning-rate schedule, which can't be reduced as well")
    if isinstance(edit, ExtendTraining | ResetOptimizerState) and not settable:
        raise ConfigError("the optimizer follows a learning-rate schedule made for the original training")
    match edit:
        case DecayRate(instead=True) if settable:
            raise ConfigError("the optimizer follows no schedule that could be replaced")
        case DecayRate() | WarmUpRate():
            check_optimizer_edit(optimizer, with_length(edit, steps, epochs))
        case ExtendTraining() if edit.epochs <= epochs:
            raise ConfigError(f"the training already has {epochs} epochs")
        case ResetOptimizerState(every=0):
            raise ConfigError("each training starts with a fresh optimizer anyway")
        case SkipUpdates() if keras.backend.backend() == "jax":
            raise ConfigError("a Keras step on JAX is a pure function, which can't keep state between steps")
        case ReviveUnits() if not revivable(editor, edit.layers):
            raise ConfigError("none of the layers has units that can be measured and reinitialized one by one")


def with_length(edit: Edit, steps: int | None, epochs: int) -> Edit:
    """Return the edit; a decay of the learning rate with the number of steps of the training.

    Raises:
        ConfigError: If that number is not known beforehand.
    """
    if not isinstance(edit, DecayRate) or edit.steps:
        return edit
    if steps is None:
        raise ConfigError("the number of steps is not known beforehand: give fit_args={'steps_per_epoch': …}")
    return replace(edit, steps=steps * epochs)


def callbacks_of(
    edits: Sequence[Edit], editor: Editor, epochs: int, sample: Callable[[], Any]
) -> tuple[TrainingCallback, ...]:
    """Return the callbacks of a training's edits.

    Args:
        edits: The edits.
        editor: The edited and compiled model.
        epochs: Planned epochs.
        sample: Returns the inputs of some training samples; None if the budget allows no forward pass.
    """
    callbacks: list[TrainingCallback] = []
    for edit in edits:
        if isinstance(edit, Rollback):
            callbacks.append(RollbackCallback(editor.model, edit))
        elif isinstance(edit, ResetOptimizerState):
            callbacks.append(StateResetCallback(editor.model, edit))
        elif isinstance(edit, ReviveUnits):
            callbacks.append(RedoCallback(editor, edit, epochs, sample))
    return tuple(callbacks)
