"""Decides which edits of data and targets a training supports, and why not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.loaders import shuffle_refusal
from autotrainer.backends.pytorch.data.targets import ConvertedLoss
from autotrainer.backends.pytorch.data.training_data import TrainingData
from autotrainer.backends.pytorch.layers.modules import target_scaling
from autotrainer.backends.pytorch.model.loss_kinds import fitted_loss_info
from autotrainer.edits import (
    DropBadRows,
    Edit,
    EncodeTargets,
    NumberClasses,
    ReshapeTargets,
    ScaleTargets,
    ShuffleData,
    WeightClasses,
)
from autotrainer.errors import ConfigError, DataError
from autotrainer.records.data import ArrayData
from autotrainer.training.data_edits import numbering_refusal, scaling_refusal, width_refusal

__all__ = ["target_refusal"]

_LOSS_EDITS = (ScaleTargets, EncodeTargets, NumberClasses, ReshapeTargets, WeightClasses)


def target_refusal(
    edit: Edit,
    request: FitRequest,
    examples: Examples,
    output: Tensor | None,
    *,
    single_output: bool,
    training_data: TrainingData,
) -> str:
    """Return why a training does not support an edit of data or targets, or an empty string.

    Args:
        edit: Any edit; other kinds are not refused.
        request: The training.
        examples: A few samples.
        output: The model's output for them, or None if the user's ``step`` hides it.
        single_output: Whether that is all that the model returns.
        training_data: Its data, and the numbers fitted on them.
    """
    if isinstance(edit, ShuffleData):
        if isinstance(request.train, ArrayData):
            return "rows of arrays are shuffled in each epoch already"
        return shuffle_refusal(request.train.source)
    if isinstance(edit, DropBadRows):
        try:
            training_data.fitted(edit)
        except ConfigError as error:
            return str(error)
        return ""
    if not isinstance(edit, _LOSS_EDITS):
        return ""
    if request.step is not None or output is None:
        return "the user's own step computes the loss"
    if not single_output:
        return "the model returns more than one tensor"
    targets = examples.batch.targets
    if not isinstance(targets, Tensor):
        return "the targets are not a single tensor"
    try:
        return _loss_edit_refusal(edit, examples, output, targets, training_data)
    except (ConfigError, DataError, RuntimeError, ValueError, IndexError, TypeError) as error:
        return f"{type(edit).__name__} can't be applied here: {error}"


def _loss_edit_refusal(
    edit: Edit, examples: Examples, output: Tensor, targets: Tensor, training_data: TrainingData
) -> str:
    loss = examples.objective.loss
    assert loss is not None
    info = fitted_loss_info(loss, output, targets)
    if isinstance(edit, ScaleTargets):
        if edit.mean:
            output = target_scaling(nn.Identity(), edit)(output)
        elif refusal := scaling_refusal(info):
            return refusal
        if targets.ndim == output.ndim == 2 and (refusal := width_refusal(targets.shape[1], output.shape[1], info)):
            return refusal
        if not edit.mean:
            training_data.fitted(edit)
            return ""
    if isinstance(edit, NumberClasses):
        if info.family != "cross_entropy" or output.ndim < 2:
            return f"{info.name} takes no class numbers"
        fitted = training_data.fitted(edit)
        assert isinstance(fitted, NumberClasses)
        return numbering_refusal(fitted.labels, int(output.shape[info.class_axis]), info)
    if isinstance(edit, WeightClasses):
        training_data.fitted(edit)
        return ""
    if isinstance(edit, ReshapeTargets) and targets.shape == output.shape:
        return "targets have the shape of the outputs already"
    with torch.no_grad():
        value = ConvertedLoss(loss, (edit,))(output, targets)
    finite = bool(torch.isfinite(output).all()) and bool(torch.isfinite(targets.float()).all())
    fails = finite and not np.isfinite(float(value.float().mean()))
    return "the loss of the first samples is not finite" if fails else ""
