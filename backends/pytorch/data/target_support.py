"""Says which edits of data and targets a training can be run with, and why not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.loaders import shuffle_refusal
from autotrainer.backends.pytorch.data.targets import ConvertedLoss, labels_of
from autotrainer.backends.pytorch.data.training_data import TrainingData
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
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

__all__ = ["target_refusal"]

_LINEAR = ("squared_error", "absolute_error", "huber", "custom")
"""Losses that compare output and target by their difference, as far as is known."""

_OF_LOSS = (ScaleTargets, EncodeTargets, NumberClasses, ReshapeTargets, WeightClasses)


def target_refusal(
    edit: Edit, request: FitRequest, examples: Examples, output: Tensor | None, *, single: bool, material: TrainingData
) -> str:
    """Say why a training with this edit of data or targets can't be run, or return an empty text.

    Args:
        edit: Any edit; those of other parts are passed over.
        request: The training as given.
        examples: A few samples.
        output: The model's output for them, or None where the user's ``step`` hides it.
        single: Whether that is all that the model returns.
        material: Data and numbers of the training as given.
    """
    if isinstance(edit, ShuffleData):
        if isinstance(request.train, ArrayData):
            return "rows of arrays are shuffled in each epoch already"
        return shuffle_refusal(request.train.source)
    if isinstance(edit, DropBadRows):
        try:
            material.filled(edit)
        except ConfigError as error:
            return str(error)
        return ""
    if not isinstance(edit, _OF_LOSS):
        return ""
    if request.step is not None or output is None:
        return "the user's own step computes the loss"
    if not single:
        return "the model returns more than one tensor"
    targets = examples.batch.targets
    if not isinstance(targets, Tensor):
        return "the targets are no single tensor"
    try:
        return _of_loss(edit, examples, output, targets, material)
    except (ConfigError, DataError, RuntimeError, ValueError, IndexError, TypeError) as error:
        return f"{type(edit).__name__} can't be applied here: {error}"


def _of_loss(edit: Edit, examples: Examples, output: Tensor, targets: Tensor, material: TrainingData) -> str:
    loss = examples.objective.loss
    assert loss is not None
    info = loss_info(loss)
    if isinstance(edit, ScaleTargets):
        if edit.mean:
            mean, std = (output.new_tensor(numbers) for numbers in (edit.mean, edit.std))
            output = output * std + mean
        elif info.family not in _LINEAR or info.expects in ("log_values", "log_probabilities"):
            return f"{info.name} does not compare outputs with targets by their difference"
        if targets.ndim == 2 and output.ndim == 2 and targets.shape[1] != output.shape[1]:
            return f"targets have {targets.shape[1]} columns and the output {output.shape[1]}"
        if not edit.mean:
            return ""
    if isinstance(edit, NumberClasses):
        if info.family != "cross_entropy" or output.ndim < 2:
            return f"{info.name} takes no class numbers"
        units = int(output.shape[info.class_axis])
        labels = edit.labels or labels_of(material.train())
        if len(labels) > units:
            return f"there are {len(labels)} classes and {units} outputs"
        return "classes are numbered from 0 already" if labels == tuple(range(len(labels))) else ""
    if isinstance(edit, WeightClasses):
        material.filled(edit)
        return ""
    if isinstance(edit, ReshapeTargets) and targets.shape == output.shape:
        return "targets have the shape of the outputs already"
    with torch.no_grad():
        value = ConvertedLoss(loss, (edit,))(output, targets)
    known = bool(torch.isfinite(output).all()) and bool(torch.isfinite(targets.float()).all())
    fails = known and not np.isfinite(float(value.float().mean()))
    return "the loss of the first samples is not finite" if fails else ""
