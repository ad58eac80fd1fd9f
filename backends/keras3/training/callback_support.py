"""Which edits of a training's course fit the training as given in Keras, and what goes along with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras

from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.optimizer_edits import check_optimizer_edit
from autotrainer.backends.keras3.training.callbacks import (
    RedoCallback,
    RollbackCallback,
    StateResetCallback,
    TrainingCallback,
    revivable,
)
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

__all__ = ["callbacks_of", "check_course_edit", "plain_rate", "with_length"]

_NOT_HERE = {
    CompleteOptimizer: "a Keras optimizer is built over all trainable weights",
    RestoreZeroGrad: "Keras computes gradients anew in each step",
    SetMode: "Keras sets the mode itself: a call of your own takes `training` and hands it on",
}


def plain_rate(optimizer: Any) -> bool:
    """Say whether an optimizer has a learning rate that can be set: no schedule."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return not isinstance(inner._learning_rate, keras.optimizers.schedules.LearningRateSchedule)


def check_course_edit(edit: Edit, optimizer: Any, steps: int | None, epochs: int, bench: Editor) -> None:
    """Check an edit of a training's course against the training as given.

    Args:
        edit: The edit; one of another part is no matter here.
        optimizer: The optimizer as given.
        steps: Steps of an epoch, or None.
        epochs: Its epochs.
        bench: Its pristine model.

    Raises:
        ConfigError: If it does not fit; says why.
    """
    if type(edit) in _NOT_HERE:
        raise ConfigError(_NOT_HERE[type(edit)])
    plain = plain_rate(optimizer)
    if isinstance(edit, ReduceOnPlateau | Rollback) and not plain:
        raise ConfigError("the optimizer follows a learning-rate schedule, which can't be reduced as well")
    if isinstance(edit, ExtendTraining | ResetOptimizerState) and not plain:
        raise ConfigError("the optimizer follows a learning-rate schedule, made for the training as it is")
    match edit:
        case DecayRate(instead=True) if plain:
            raise ConfigError("the optimizer follows no schedule to take the place of")
        case DecayRate() | WarmUpRate():
            check_optimizer_edit(optimizer, with_length(edit, steps, epochs))
        case ExtendTraining() if edit.epochs <= epochs:
            raise ConfigError(f"the training has {epochs} epochs as it is")
        case ResetOptimizerState(every=0):
            raise ConfigError("each training has a fresh optimizer in any case")
        case SkipUpdates() if keras.backend.backend() == "jax":
            raise ConfigError("a step of Keras on JAX is a pure function, in which nothing of it can be kept")
        case ReviveUnits() if not revivable(bench, edit.layers):
            raise ConfigError("none of the layers has units that can be watched and drawn anew one by one")


def with_length(edit: Edit, steps: int | None, epochs: int) -> Edit:
    """Return a decay of the learning rate with the steps of its training.

    Raises:
        ConfigError: If they are not known beforehand.
    """
    if not isinstance(edit, DecayRate) or edit.steps:
        return edit
    if steps is None:
        raise ConfigError("the number of steps is not known beforehand: give fit_args={'steps_per_epoch': …}")
    return replace(edit, steps=steps * epochs)


def callbacks_of(
    edits: Sequence[Edit], bench: Editor, epochs: int, batch: Callable[[], Any]
) -> tuple[TrainingCallback, ...]:
    """Return what goes along with a training because of its edits.

    Args:
        edits: The edits.
        bench: The model with its edits, compiled.
        epochs: Planned epochs.
        batch: Returns the inputs of some training samples, or None where the budget allows no pass over them.
    """
    found: list[TrainingCallback] = []
    for edit in edits:
        if isinstance(edit, Rollback):
            found.append(RollbackCallback(bench.model, edit))
        elif isinstance(edit, ResetOptimizerState):
            found.append(StateResetCallback(bench.model, edit))
        elif isinstance(edit, ReviveUnits):
            found.append(RedoCallback(bench, edit, epochs, batch))
    return tuple(found)
