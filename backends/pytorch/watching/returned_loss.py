"""The loss that a model computes itself and returns beside its outputs, as those of Hugging Face do with ``labels``.

Names and places are a convention of many libraries; whether it is the loss of the training shows in the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.loss_graph import is_multiple, loss_function, outputs_and_targets
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.watching.loss_call import TARGET_NAMES, LossCall, output_activation

__all__ = ["ReturnedLoss", "adds_up", "returned_call", "returned_loss"]

_ITEMS = "num_items_in_batch"
"""Argument of models of Hugging Face: what the loss is divided by, over all batches of an optimizer step."""


def returned_loss(output: Any) -> Tensor | None:
    """Return the loss in what a model has returned, a scalar; None if there is none.

    It is the ``loss`` of a mapping or another object, or the first part of a tuple that has further ones.
    """
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        loss = output.get("loss")
    elif isinstance(output, tuple) and not hasattr(output, "loss"):
        loss = output[0] if len(output) > 1 else None
    else:
        loss = getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) and not loss.ndim and loss.is_floating_point() else None


def adds_up(kwargs: Mapping[str, Any]) -> bool:
    """Return whether the losses of the batches of a step, of calls with these arguments, add up to that of the step."""
    return kwargs.get(_ITEMS) is not None


def returned_call(loss: Tensor, kwargs: Mapping[str, Any], output: Any) -> LossCall:
    """Return the loss with outputs and targets, from a call of the model.

    Targets are those in the autograd graph of the loss, which may be shifted by one token, else the labels.

    Args:
        loss: The loss in the output.
        kwargs: Keyword arguments of the model.
        output: What the model has returned.
    """
    logits = _logits(loss, output)
    outputs, targets = outputs_and_targets(loss) if loss.grad_fn is not None else (None, None)
    if targets is None:
        labels = next((kwargs[name] for name in kwargs if name in TARGET_NAMES), None)
        targets = labels if isinstance(labels, Tensor) else None
    if logits is not None and targets is not None:
        if targets.shape == logits.shape:
            outputs = logits
        elif targets.numel() == logits.numel():  # of a single output
            outputs, targets = logits, targets.reshape(logits.shape)
        elif logits.ndim > 1 and targets.numel() == logits.shape[:-1].numel():
            outputs, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    if outputs is None:
        rows = len(logits) if logits is not None and logits.ndim else 0
        return LossCall(loss.detach(), rows=rows)
    direct = logits is not None and logits.data_ptr() == outputs.data_ptr()
    call = LossCall(loss.detach(), rows=len(outputs), direct=True if direct else None)
    if direct:  # their activation is that of the last layer
        outputs = outputs.detach()
    return LossCall.reported(outputs, targets, call)


def _logits(loss: Tensor, output: Any) -> Tensor | None:
    logits = first_tensor(output, floating=True)
    if logits is loss:
        parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ()
        logits = first_tensor([part for part in parts if part is not loss], floating=True)
    return logits


def _of_logits(function: Any) -> Any:
    """Return the loss function of logits in place of that of log-probabilities."""
    if not isinstance(function, functools.partial) or function.func is not F.nll_loss:
        return function
    reduced = functools.partial(F.cross_entropy, **function.keywords)
    if "loss_info" in vars(function):
        vars(reduced)["loss_info"] = replace(loss_info(reduced), weighted=True)
    return reduced


class ReturnedLoss:
    """Finds out whether the loss that a model returns is that of the training: its backward pass starts from it.

    Args:
        confirmed: Called once that is so, with the call of the model.
    """

    def __init__(self, confirmed: Callable[[LossCall, bool], None]) -> None:
        self._confirmed = confirmed
        self._node: Any = None  # where the loss was computed; held from the forward to the backward pass
        self._call: LossCall | None = None
        self._adds_up = False
        self.followed = False
        """Whether it is the loss of the training."""
        self.function: Callable[..., Tensor] | None = None
        """The function of PyTorch that it comes from."""

    def note(self, kwargs: Mapping[str, Any], output: Any) -> None:
        """Note a call of the model in a sampled step."""
        loss = None if self.followed else returned_loss(output)
        if loss is not None and loss.grad_fn is not None:
            self._node, self._adds_up = loss.grad_fn, adds_up(kwargs)
            call = returned_call(loss, kwargs, output)
            self.function = loss_function(loss, mean=self._adds_up)
            if call.direct and output_activation(_logits(loss, output)) != "log_softmax":
                self.function = _of_logits(self.function)
            self._call = call.copied()

    def backward_started(self, loss: Tensor) -> None:
        """Compare a loss whose backward pass starts with that of the latest call."""
        node, call = self._node, self._call
        self._node = self._call = None
        if node is not None and call is not None and is_multiple(loss, node):
            self.followed = True
            self._confirmed(call, self._adds_up)

    def clear(self) -> None:
        """Drop the call of a step that has ended."""
        self._node = self._call = None
