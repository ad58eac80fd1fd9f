"""The loss of a batch: by a loss module, or by the user's own ``step``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autotrainer.backends.pytorch.data.batches import Batch, primary_output
from autotrainer.backends.pytorch.data.targets import ConvertedLoss
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.model.losses import EditedLoss, plain_loss
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.errors import DataError, InputError

__all__ = ["Objective"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Computes the loss of a batch: with the loss module, or with the user's own ``step``.

    Attributes:
        loss: The loss module; None with a ``step``.
        step: The user's own step, or None.
        convert: What the loss takes in place of the model's output, or None.
        otherwise: Loss that is trained on in place of ``loss``, which may not take such outputs and targets; or None.
    """

    loss: nn.Module | None
    step: Callable[..., Any] | None = None
    convert: Callable[[Tensor], Tensor] | None = None
    otherwise: nn.Module | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any, Any]:
        """Return (loss, outputs, targets) of a batch; outputs and targets are None where ``step`` hides them."""
        if self.step is not None:
            result = self.step(model, batch.raw)
            loss, outputs, targets = result if isinstance(result, tuple) and len(result) == 3 else (result, None, None)
        else:
            assert self.loss is not None
            outputs, targets = call_model(model, batch.inputs), batch.targets
            seen = primary_output(outputs) if self._takes_tensor() else outputs
            extra = () if batch.weights is None else (batch.weights,)
            try:
                loss = self.loss(seen if self.convert is None else self.convert(seen), targets, *extra)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if self.otherwise is None:
                    _check_labels(self.loss, seen, targets, error)
                    raise
                loss = self.otherwise(primary_output(outputs), targets, *extra)
        if not isinstance(loss, Tensor):
            what = (
                "the loss must return a tensor"
                if self.step is None
                else "step must return loss or (loss, outputs, targets)"
            )
            raise InputError(f"{what} with a gradient, not {type(loss).__name__}")
        return (loss.mean() if loss.ndim else loss), outputs, targets

    def _takes_tensor(self) -> bool:
        loss = plain_loss(self.loss)
        return isinstance(loss, EditedLoss | ConvertedLoss) or type(loss).__module__ == "torch.nn.modules.loss"


def _check_labels(loss: nn.Module | None, outputs: Any, targets: Any, error: Exception) -> None:
    """Say which class index of a batch is no output, where that is why its loss can't be computed.

    Raises:
        DataError: If there is one.
    """
    info = loss_info(plain_loss(loss))
    whole = isinstance(targets, Tensor) and isinstance(outputs, Tensor) and not targets.is_floating_point()
    if info.family != "cross_entropy" or not whole or outputs.ndim < 2 or targets.shape == outputs.shape:
        return
    units = int(outputs.shape[info.class_axis])
    wrong = targets[((targets < 0) | (targets >= units)) & (targets != getattr(plain_loss(loss), "ignore_index", None))]
    if len(wrong):
        raise DataError(
            f"a batch has class index {int(wrong[0])}, but the model has {units} outputs, for classes 0 to "
            f"{units - 1}: number the classes from 0, or widen the output"
        ) from error
