"""Which edits of a training's course fit the training as given, and what goes along with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.backends.pytorch.optim.optimizers import missing_parameters
from autotrainer.backends.pytorch.runtime.devices import dtype_of
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.surgery.surgery_planning import SurgeryPlanner
from autotrainer.backends.pytorch.training.callbacks import (
    ModeCallback,
    RateCallback,
    RollbackCallback,
    SkipUpdatesCallback,
    StateResetCallback,
    TrainingCallback,
)
from autotrainer.backends.pytorch.training.redo import RedoCallback, revivable
from autotrainer.edits import (
    CompleteOptimizer,
    DecayRate,
    Edit,
    ExtendTraining,
    RaisePrecision,
    Reinitialize,
    ResetOptimizerState,
    RestoreZeroGrad,
    ReviveUnits,
    Rollback,
    SetMode,
    SkipUpdates,
    WarmUpRate,
)

__all__ = ["callbacks_of", "course_refusal", "plan_edit"]

_HALF = (torch.float16, torch.bfloat16)


def course_refusal(
    edit: Edit, request: FitRequest, model: nn.Module, optimizer: Optimizer, anatomy: ActivationGraph
) -> str:
    """Say why the training as given can't take an edit of its course, or return an empty text.

    Args:
        edit: The edit; one of another part is no matter here.
        request: The training as given.
        model: Its pristine model.
        optimizer: Over that model.
        anatomy: Of that model.
    """
    match edit:
        case DecayRate(instead=False) | ExtendTraining() if request.scheduler is not None:
            return "the training has a scheduler of its own"
        case DecayRate(instead=True) if request.scheduler is None:
            return "the training has no scheduler to take the place of"
        case ExtendTraining() if edit.epochs <= request.epochs:
            return f"the training has {request.epochs} epochs as it is"
        case RestoreZeroGrad():
            return "fit resets the gradients before each step itself"
        case SetMode() if request.step is None:
            return "fit sets the mode itself"
        case Rollback() if isinstance(optimizer, LBFGS):
            return "a step of LBFGS computes losses of its own"
        case RaisePrecision() if dtype_of(model) not in _HALF:
            return "the weights have single precision: half precision is what your own code asks for"
        case ReviveUnits() if not revivable(anatomy, watched_modules(model), edit.layers):
            return "none of the layers has units that can be watched and drawn anew one by one"
        case CompleteOptimizer() if not missing_parameters(optimizer, model, edit.layers):
            return "the optimizer has all of these parameters"
    return ""


def plan_edit(surgeon: SurgeryPlanner, edit: Edit) -> tuple[tuple[Edit, ...], str]:
    """Return an edit as it can be applied, and why not where it can't; see `SurgeryPlanner.plan`.

    Layers that are only to be trained otherwise are those that may be drawn anew: neither kept nor frozen.
    """
    if not isinstance(edit, ReviveUnits | CompleteOptimizer) or not edit.layers:
        return surgeon.plan(edit)
    planned, reason = surgeon.plan(Reinitialize(edit.layers, "he_uniform"))
    return tuple(replace(edit, layers=one.layers) for one in planned if isinstance(one, Reinitialize)), reason


def callbacks_of(
    edits: Sequence[Edit], model: nn.Module, optimizer: Optimizer, look: Callable[[], ActivationGraph], epochs: int
) -> tuple[TrainingCallback, ...]:
    """Return what goes along with a training because of its edits; in this order they have their say.

    Args:
        edits: The edits, with numbers filled in.
        model: The model with its edits.
        optimizer: Its optimizer.
        look: Returns the model's anatomy.
        epochs: Planned epochs.
    """
    found: list[TrainingCallback] = []
    rates = {type(edit): edit for edit in edits if isinstance(edit, WarmUpRate | DecayRate)}
    if rates:
        found.append(RateCallback(optimizer, rates.get(WarmUpRate), rates.get(DecayRate)))  # type: ignore[arg-type]
    for edit in edits:
        if isinstance(edit, SkipUpdates):
            found.append(SkipUpdatesCallback(model, edit))
        elif isinstance(edit, Rollback):
            found.append(RollbackCallback(model, optimizer, edit))
        elif isinstance(edit, ResetOptimizerState):
            found.append(StateResetCallback(optimizer, edit))
        elif isinstance(edit, SetMode):
            found.append(ModeCallback(model))
        elif isinstance(edit, ReviveUnits):
            found.append(RedoCallback(model, look(), optimizer, edit, epochs))
    return tuple(found)
