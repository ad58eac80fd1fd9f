"""Evaluation and prediction of models in evaluation mode."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotrainer.adapter.spec import Evaluation
from autotrainer.adapter.trainer import Run
from autotrainer.backends.pytorch.data.batches import Batch, Batches, primary_output
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.model.losses import plain_loss
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.backends.pytorch.runtime.tensors import map_tensors
from autotrainer.training.padding import joined, joined_targets

__all__ = ["evaluate", "losses_with_mean_outputs", "predict"]


def evaluate(model: nn.Module, objective: Objective, batches: Batches, run: Run | None = None) -> Evaluation | None:
    """Evaluate a model in evaluation mode, without gradients.

    Args:
        model: The model. Stays in evaluation mode.
        objective: The user's loss; its ``otherwise`` is the loss that is trained on instead.
        batches: The data.
        run: Accounts for the work; None if the work does not count.

    Returns:
        Outputs (float64), targets and the mean losses over rows; None if the budget does not allow it. Outputs and
        targets have no rows if ``step`` hides them.
    """
    model.eval()
    outputs: list[NDArray[Any]] = []
    targets: list[NDArray[Any]] = []
    total: Any = 0.0
    trained: Any = 0.0
    rows = 0
    with torch.no_grad():
        for batch in batches.read():
            if run is not None and not run.spend(batch.rows, training=False):
                return None
            loss, output, target = objective(model, batch)
            if output is None and batch.targets is not None:
                output, target = call_model(model, batch.inputs), batch.targets
            if isinstance(target, Tensor) and output is not None:
                outputs.append(_to_host(primary_output(output)))
                targets.append(target.detach().cpu().numpy())
            total = total + loss * (1 if _is_sum(objective) else batch.rows)
            if objective.otherwise is not None:
                extra = () if batch.weights is None else (batch.weights,)
                trained = trained + objective.otherwise(primary_output(output), target, *extra) * batch.rows
            rows += batch.rows
    trained_loss = None if objective.otherwise is None else float(trained) / max(rows, 1)
    return Evaluation(joined(outputs, 0.0), joined_targets(targets), float(total) / max(rows, 1), trained_loss)


def losses_with_mean_outputs(
    model: nn.Module, objective: Objective, batches: Batches
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the loss of each batch, and its loss if all rows have the mean output of the batch; see `Trained`.

    A loss that calls the model several times gets the mean of the first call from each.
    """
    means: dict[int, Tensor] = {}

    def to_mean(_: nn.Module, __: Any, outputs: Any) -> Any:
        places = itertools.count()

        def of_first_call(tensor: Tensor) -> Tensor:
            place = next(places)
            if not tensor.ndim or not tensor.is_floating_point():
                return tensor
            if place not in means or means[place].shape[1:] != tensor.shape[1:]:
                means[place] = tensor.mean(0, keepdim=True)
            return means[place].expand_as(tensor)

        return map_tensors(of_first_call, outputs)

    model.eval()
    losses: list[tuple[float, float]] = []
    with torch.no_grad():
        for batch in batches.read():
            plain = float(objective(model, batch)[0])
            means.clear()
            hook = model.register_forward_hook(to_mean)
            try:
                losses.append((plain, float(objective(model, batch)[0])))
            finally:
                hook.remove()
    pairs = np.array(losses if means else [], np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def predict(model: nn.Module, batches: Iterator[Batch]) -> NDArray[np.float64]:
    """Return the raw outputs of a model in evaluation mode, shape (rows, ...)."""
    model.eval()
    with torch.no_grad():
        return joined([_to_host(primary_output(call_model(model, batch.inputs))) for batch in batches], 0.0)


def _is_sum(objective: Objective) -> bool:
    return objective.step is None and getattr(plain_loss(objective.loss), "reduction", "mean") == "sum"


def _to_host(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()
