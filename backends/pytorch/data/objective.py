"""The loss of a batch: from a loss module, or from the user's ``step``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.data.batches import Batch, primary_output
from autotrainer.backends.pytorch.data.targets import ConvertedLoss
from autotrainer.backends.pytorch.model.loss_kinds import fitted_loss_info
from autotrainer.backends.pytorch.model.losses import EditedLoss, plain_loss
from autotrainer.backends.pytorch.model.model_calls import call_model, with_gradients
from autotrainer.errors import DataError, InputError

__all__ = ["Objective"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Computes the loss of a batch: with the loss module, or with the user's ``step``.

    Attributes:
        loss: The loss module; None with a ``step``.
        step: The user's step, or None.
        convert: Converts the model's output to what the loss takes, or None.
        otherwise: The loss that is trained on instead of ``loss``, used if ``loss`` does not take such outputs and
            targets; or None.
        comparable: Whether ``otherwise`` is the same loss, of converted targets, or ``loss`` has no value without edits
            either. Else the value of another loss would be compared with that of ``loss``: it is NaN then.
    """

    loss: nn.Module | None
    step: Callable[..., Any] | None = None
    convert: Callable[[Tensor], Tensor] | None = None
    otherwise: nn.Module | None = None
    comparable: bool = True

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any, Any]:
        """Return (loss, outputs, targets) of a batch; outputs and targets are None if ``step`` hides them."""
        if self.step is not None:
            trains = torch.is_grad_enabled()
            result = self.step(model, batch.raw) if trains else with_gradients(self.step, model, batch.raw)
            loss, outputs, targets = result if isinstance(result, tuple) and len(result) == 3 else (result, None, None)
        else:
            assert self.loss is not None
            outputs, targets = call_model(model, batch.inputs), batch.targets
            predictions = primary_output(outputs) if self._takes_tensor() else outputs
            extra = () if batch.weights is None else (batch.weights,)
            try:
                loss = self.loss(predictions if self.convert is None else self.convert(predictions), targets, *extra)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if self.otherwise is None:
                    _check_labels(self.loss, predictions, targets, error)
                    raise
                loss = self.otherwise(primary_output(outputs), targets, *extra)
                loss = loss if self.comparable else loss * torch.nan
        if not isinstance(loss, Tensor):
            requirement = (
                "the loss must return a tensor"
                if self.step is None
                else "step must return loss or (loss, outputs, targets)"
            )
            raise InputError(f"{requirement} with a gradient, not {type(loss).__name__}")
        return (loss.mean() if loss.ndim else loss), outputs, targets

    def _takes_tensor(self) -> bool:
        loss = plain_loss(self.loss)
        return isinstance(loss, EditedLoss | ConvertedLoss) or type(loss).__module__ == "torch.nn.modules.loss"


def _check_labels(loss: nn.Module | None, outputs: Any, targets: Any, error: Exception) -> None:
    """Explain an error of a loss by a class index out of range.

    Raises:
        DataError: If there is such an index.
    """
    info = fitted_loss_info(plain_loss(loss), outputs, targets)
    integers = isinstance(targets, Tensor) and isinstance(outputs, Tensor) and not targets.is_floating_point()
    if info.family != "cross_entropy" or not integers or outputs.ndim < 2 or targets.shape == outputs.shape:
        return
    units = int(outputs.shape[info.class_axis])
    out_of_range = targets[
        ((targets < 0) | (targets >= units)) & (targets != getattr(plain_loss(loss), "ignore_index", None))
    ]
    if len(out_of_range):
        raise DataError(
            f"a batch has class index {int(out_of_range[0])}, but the model has {units} outputs, for classes 0 to "
            f"{units - 1}: number the classes from 0, or widen the output"
        ) from error
