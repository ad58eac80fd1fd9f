"""One call of the loss: its value, the outputs and the targets."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.losses.loss_graph import masked, outputs_and_targets, weights_in_graph
from autotrainer.backends.pytorch.losses.main_term import MainTerm
from autotrainer.backends.pytorch.losses.pairwise_loss import multiplies_outputs
from autotrainer.backends.pytorch.model.loss_kinds import class_weights, loss_info
from autotrainer.backends.pytorch.ranks.shards import is_summand, local_part
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.statistics.stats import row_count, rows_of
from autotrainer.records.signals import MAX_VALUES
from autotrainer.records.task import MASKED

__all__ = [
    "LossCall",
    "loss_of",
    "losses_add_up",
    "losses_to_host",
    "output_activation",
    "returned_call",
    "returned_logits",
    "returned_loss",
]

_Key = TypeVar("_Key", int, str)

_TARGET_NAMES = frozenset({"target", "targets", "label", "labels", "y_true", "truth", "y"})
"""Names of arguments that hold targets."""

_ITEMS = "num_items_in_batch"
"""Argument of models of Hugging Face: what the loss is divided by, over all batches of an optimizer step."""

_BY_NODE = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "log_sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Softplus": "softplus",
    "Addmm": "linear",
    "Mm": "linear",
    "Convolution": "linear",
}
_NEUTRAL = frozenset(
    {
        "Squeeze",
        "Unsqueeze",
        "View",
        "UnsafeView",
        "Reshape",
        "Transpose",
        "Permute",
        "T",
        "ToCopy",
        "Select",
        "Slice",
        "Log",
        "Clamp",
        "ClampMin",
    }
)


def losses_to_host(losses: Mapping[_Key, Tensor | float]) -> dict[_Key, float]:
    """Return losses by step or name as numbers, infinity if not finite; synchronizes with the device once.

    Losses that are sums over processes, of which this one has a part, are left out.
    """
    losses = {step: loss for step, loss in losses.items() if not (isinstance(loss, Tensor) and is_summand(loss))}
    losses = {step: local_part(loss) if isinstance(loss, Tensor) else loss for step, loss in losses.items()}
    tensors = [loss.detach().float() for loss in losses.values() if isinstance(loss, Tensor)]
    values = iter(torch.stack(tensors).tolist() if tensors else ())
    by_step = {step: next(values) if isinstance(loss, Tensor) else float(loss) for step, loss in losses.items()}
    return {step: loss if math.isfinite(loss) else math.inf for step, loss in by_step.items()}


@dataclass(frozen=True, slots=True)
class LossCall:
    """One call of the loss.

    Attributes:
        loss: The loss, detached.
        outputs: What it received as the model's output, or None.
        targets: Targets, or None.
        rows: Rows of the batch; 0 if unknown.
        activation: Activation of the outputs after they left the model, or None.
        crossed: Whether the loss received shapes (n,) and (n, 1), which broadcast to (n, n); None if unknown.
        direct: Whether the loss is called once, with the output of the model itself; None if unknown.
        pairwise: Whether its graph proves that it compares every output with every target.
        weights: Its weights of classes, as `class_weights` returns them, or None.
        labels: Class indices of the whole batch, or the first ones, if there is one a row or a time step; else None.
        entries: Number of all of these.
        alone: Mean loss of the outputs by themselves, where the loss has other terms; else None.
        embeds: Whether its graph proves that outputs are embeddings, which do not estimate the targets.
    """

    loss: Tensor | float = float("nan")
    outputs: Tensor | None = None
    targets: Tensor | None = None
    rows: int = 0
    activation: str | None = None
    crossed: bool | None = None
    direct: bool | None = None
    pairwise: bool = False
    weights: Tensor | None = None
    labels: Tensor | None = None
    entries: int = 0
    alone: Tensor | None = None
    embeds: bool = False

    @classmethod
    def of(
        cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Tensor, returned: Tensor | None
    ) -> LossCall:
        """Interpret a call of a loss module.

        Args:
            module: The loss module.
            args: Its arguments.
            kwargs: Its keyword arguments.
            loss: Its loss.
            returned: The latest output of the model, detached, or None.
        """
        arguments: dict[str, Any] = {str(index): value for index, value in enumerate(args)}
        if kwargs:
            arguments = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
        tensors = {name: tensor for name, value in arguments.items() if (tensor := first_tensor(value)) is not None}
        target_name = next((name for name in tensors if name in _TARGET_NAMES), None)
        targets = tensors.pop(target_name, None) if target_name is not None else None
        rest = list(tensors.values())
        outputs = rest[0] if rest else None
        if targets is None and len(rest) > 1:
            targets = rest[1]
        if targets is not None and targets.requires_grad:  # another output, as in losses of pairs or triplets
            targets = None
        embeds = targets is not None and loss_info(module).own and multiplies_outputs(loss, tensors.values())
        if embeds:
            targets = None
        if outputs is None:
            return cls(loss.detach())
        same = returned is not None and returned.data_ptr() == outputs.data_ptr()
        activation = None if same else output_activation(outputs)
        rows = outputs.shape[0] if outputs.ndim else 0
        if targets is None:
            return cls(loss.detach(), outputs.detach(), None, rows, activation, direct=same, embeds=embeds)
        targets = masked(targets, getattr(module, "ignore_index", MASKED))
        shapes = {tuple(outputs.shape), tuple(targets.shape)}
        crossed = rows > 1 and shapes == {(rows,), (rows, 1)}
        weights = class_weights(module)
        return cls(loss.detach(), outputs.detach(), targets.detach(), rows, activation, crossed, same, weights=weights)

    @classmethod
    def reported(cls, outputs: Any, targets: Any, observed: LossCall | None) -> LossCall:
        """Return the call with what the user's loop reports, completed from the observed call."""
        observed = observed or cls()
        return cls(
            observed.loss,
            observed.outputs if outputs is None else torch.as_tensor(outputs).detach(),
            observed.targets if targets is None else torch.as_tensor(targets).detach(),
            observed.rows,
            output_activation(outputs) if isinstance(outputs, Tensor) else observed.activation,
            observed.crossed,
            observed.direct,
            observed.pairwise,
            observed.weights,
            alone=observed.alone,
        )

    @classmethod
    def of_term(cls, loss: Tensor, term: MainTerm) -> LossCall:
        """Return the call of a loss whose term with targets is known, copied."""
        observed = cls(loss.detach(), rows=term.rows, direct=term.direct, alone=term.mean)
        call = cls.reported(term.outputs, term.targets, observed)
        return replace(call, activation=term.activation or call.activation).copied()

    def copied(self) -> LossCall:
        """Return the call with copies of as many rows as may be kept, without references to the user's tensors."""
        rows = row_count(self.outputs, self.targets)
        targets, weights = self.targets, self.weights
        if weights is not None and len(weights) > MAX_VALUES:  # which classes have no weight is not known then
            return replace(self, outputs=rows_of(self.outputs, rows), targets=rows_of(targets, rows), weights=None)
        weights = None if weights is None else weights.detach().clone()
        copy = replace(self, outputs=rows_of(self.outputs, rows), targets=rows_of(targets, rows), weights=weights)
        if targets is not None and targets.ndim == 3 and targets.shape[1] == 1:  # as the graph holds those of sequences
            targets = targets[:, 0]
        if targets is None or targets.ndim not in (1, 2) or targets.is_floating_point() or not targets.numel():
            return copy
        first = rows_of(targets, MAX_VALUES // targets[0].numel() if targets[0].numel() else 0)
        return replace(copy, labels=first, entries=targets.numel())


def loss_of(output: Any) -> Tensor | None:
    """Return the loss in the output of a loss module: its first floating-point tensor."""
    return first_tensor(output, floating=True)


def output_activation(tensor: Tensor | None) -> str | None:
    """Return the last activation that a tensor went through, from the autograd graph; None if unknown."""
    node: Any = None if tensor is None else tensor.grad_fn
    logs = {"softmax": "log_softmax", "sigmoid": "log_sigmoid"}
    logged = False
    for _ in range(8):
        if node is None:
            return None
        name = node.name().split("::")[-1]
        name = name.split("Backward")[0]
        if name in _BY_NODE:
            activation = _BY_NODE[name]
            return logs.get(activation) if logged else activation
        logged = logged or name == "Log"
        if name not in _NEUTRAL or not node.next_functions:
            return None
        node = node.next_functions[0][0]
    return None


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


def losses_add_up(kwargs: Mapping[str, Any]) -> bool:
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
    logits = returned_logits(loss, output)
    outputs, targets = outputs_and_targets(loss) if loss.grad_fn is not None else (None, None)
    if targets is None:
        labels = next((kwargs[name] for name in kwargs if name in _TARGET_NAMES), None)
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
    weights = weights_in_graph(loss) if loss.grad_fn is not None else None
    call = LossCall(loss.detach(), rows=len(outputs), direct=True if direct else None, weights=weights)
    if direct:  # their activation is that of the last layer
        outputs = outputs.detach()
    return LossCall.reported(outputs, targets, call)


def returned_logits(loss: Tensor, output: Any) -> Tensor | None:
    """Return the outputs beside a loss in what a model has returned."""
    logits = first_tensor(output, floating=True)
    if logits is loss:
        parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ()
        logits = first_tensor([part for part in parts if part is not loss], floating=True)
    return logits
