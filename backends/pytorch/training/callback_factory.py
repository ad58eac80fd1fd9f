"""Makes the callbacks that the edits of a training need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.training.callbacks import (
    ModeCallback,
    RateCallback,
    RollbackCallback,
    SkipUpdatesCallback,
    StateResetCallback,
    TrainingCallback,
)
from autotrainer.backends.pytorch.training.redo import RedoCallback
from autotrainer.edits import (
    DecayRate,
    Edit,
    ResetOptimizerState,
    ReviveUnits,
    Rollback,
    SetMode,
    SkipUpdates,
    WarmUpRate,
)

__all__ = ["make_callbacks"]


def make_callbacks(
    edits: Sequence[Edit],
    model: nn.Module,
    optimizer: Optimizer,
    build_graph: Callable[[], ActivationGraph],
    epochs: int,
) -> tuple[TrainingCallback, ...]:
    """Return the callbacks for the edits of a training, in the order in which they run.

    Args:
        edits: The edits, with fitted numbers filled in.
        model: The edited model.
        optimizer: Its optimizer.
        build_graph: Returns the model's activation graph.
        epochs: Planned epochs.
    """
    callbacks: list[TrainingCallback] = []
    rates = {type(edit): edit for edit in edits if isinstance(edit, WarmUpRate | DecayRate)}
    if rates:
        callbacks.append(RateCallback(optimizer, rates.get(WarmUpRate), rates.get(DecayRate)))  # type: ignore[arg-type]
    for edit in edits:
        if isinstance(edit, SkipUpdates):
            callbacks.append(SkipUpdatesCallback(model, edit))
        elif isinstance(edit, Rollback):
            callbacks.append(RollbackCallback(model, optimizer, edit))
        elif isinstance(edit, ResetOptimizerState):
            callbacks.append(StateResetCallback(optimizer, edit))
        elif isinstance(edit, SetMode):
            callbacks.append(ModeCallback(model))
        elif isinstance(edit, ReviveUnits):
            callbacks.append(RedoCallback(model, build_graph(), optimizer, edit, epochs))
    return tuple(callbacks)
