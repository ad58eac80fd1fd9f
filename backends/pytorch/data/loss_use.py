"""Measures on training rows whether a custom loss compares outputs with targets."""

from __future__ import annotations

import warnings
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotrainer.backends.pytorch.data.batches import Batch, primary_output
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.training_data import TrainingData
from autotrainer.backends.pytorch.model.losses import FunctionLoss, plain_loss
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.backends.pytorch.model.operations import undisturbed
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.output import logger
from autotrainer.records.data import ArrayData
from autotrainer.records.task import TaskContext
from autotrainer.scoring.loss_use import measured_rows, with_measured_loss

__all__ = ["MOST_PARAMETERS", "measured"]

MOST_PARAMETERS = 10**6
"""Parameters of a loss module that is called with outputs of one's own: a network in it takes inputs of some kind."""


def measured(context: TaskContext, model: nn.Module, examples: Examples, training_data: TrainingData) -> TaskContext:
    """Return the context with what is measured of a custom loss; see `with_measured_loss`.

    Args:
        context: The training.
        model: A copy of the model.
        examples: The first batch of a loader, and the loss, a copy.
        training_data: Opens the training data.
    """
    loss, train = examples.objective.loss, training_data.request.train
    if context.loss.family != "custom" or loss is None or not _is_cheap(loss):
        return context
    try:
        batch = _rows(train, training_data) if isinstance(train, ArrayData) else examples.batch
        if batch is None:
            return context
        with undisturbed(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training itself raises them again
            return _measured(context, loss, call_model(model, batch.inputs), batch)
    except Exception as error:  # noqa: BLE001 - the user's model or data: the training itself raises it
        logger.debug("the loss is not measured: %r", error)
        return context


def _rows(train: ArrayData, training_data: TrainingData) -> Batch | None:
    data = measured_rows(train)
    with preserve_random_state(), closing(training_data.open(data, max(1, data.rows)).read()) as batches:
        return next(batches, None)


def _measured(context: TaskContext, loss: nn.Module, outputs: Any, batch: Batch) -> TaskContext:
    if not isinstance(batch.targets, Tensor):
        return context
    primary, targets = primary_output(outputs), batch.targets
    extra = () if batch.weights is None else (batch.weights,)

    def value(others: NDArray[Any] | None, labels: NDArray[Any]) -> float:
        given = outputs if others is None else torch.as_tensor(np.ascontiguousarray(others)).to(primary)
        with preserve_random_state():
            result = loss(given, torch.as_tensor(np.ascontiguousarray(labels)).to(targets), *extra)
        return float(result.mean())

    single = isinstance(outputs, Tensor)
    return with_measured_loss(context, value, primary.float().cpu().numpy(), targets.cpu().numpy(), single=single)


def _is_cheap(loss: nn.Module) -> bool:
    """Return whether calls of a loss take little: no network is in it, and nothing is compiled for their shapes."""
    plain = plain_loss(loss)
    function = plain.function if isinstance(plain, FunctionLoss) else plain
    compiled = hasattr(function, "_torchdynamo_orig_callable") or hasattr(function, "_orig_mod")
    return not compiled and sum(p.numel() for p in loss.parameters()) <= MOST_PARAMETERS
