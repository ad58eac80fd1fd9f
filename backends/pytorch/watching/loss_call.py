"""What a call of the loss tells: the loss, the outputs and the targets."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.model.functional import first_tensor
from autotrainer.backends.pytorch.statistics.stats import row_count, rows_of

__all__ = ["LossCall", "loss_of", "losses_to_host", "output_activation"]

_TARGET_NAMES = frozenset({"target", "targets", "label", "labels", "y_true", "truth", "y"})

_BY_GRADIENT = {
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


def losses_to_host(losses: Mapping[int, Tensor | float]) -> dict[int, float]:
    """Return losses by step as numbers, infinity where one is not finite; one transfer, which waits for the device."""
    tensors = [loss.detach().float() for loss in losses.values() if isinstance(loss, Tensor)]
    told = iter(torch.stack(tensors).tolist() if tensors else ())
    known = {step: next(told) if isinstance(loss, Tensor) else float(loss) for step, loss in losses.items()}
    return {step: loss if math.isfinite(loss) else math.inf for step, loss in known.items()}


@dataclass(frozen=True, slots=True)
class LossCall:
    """One call of the loss.

    Attributes:
        loss: The loss, detached.
        outputs: What it took for the model's output, or None.
        targets: Targets, or None.
        rows: Rows of the batch; 0 if unknown.
        activation: What the outputs went through after they left the model, or None.
    """

    loss: Tensor | float = float("nan")
    outputs: Tensor | None = None
    targets: Tensor | None = None
    rows: int = 0
    activation: str | None = None

    @classmethod
    def of(
        cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Tensor, returned: Tensor | None
    ) -> LossCall:
        """Read a call of a loss module.

        Args:
            module: The loss module.
            args: Its arguments.
            kwargs: Its keyword arguments.
            loss: What it returned.
            returned: What the model returned last, detached, or None.
        """
        named: dict[str, Any] = {str(place): value for place, value in enumerate(args)}
        if kwargs:
            named = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
        tensors = {name: tensor for name, value in named.items() if (tensor := first_tensor(value)) is not None}
        target_name = next((name for name in tensors if name in _TARGET_NAMES), None)
        targets = tensors.pop(target_name, None) if target_name is not None else None
        rest = list(tensors.values())
        outputs = rest[0] if rest else None
        if targets is None and len(rest) > 1:
            targets = rest[1]
        if targets is not None and targets.requires_grad:  # another output, as in losses of pairs and triplets
            targets = None
        if outputs is None:
            return cls(loss.detach())
        same = returned is not None and returned.data_ptr() == outputs.data_ptr()
        activation = None if same else output_activation(outputs)
        rows = outputs.shape[0] if outputs.ndim else 0
        return cls(loss.detach(), outputs.detach(), None if targets is None else targets.detach(), rows, activation)

    @classmethod
    def told(cls, outputs: Any, targets: Any, seen: LossCall | None) -> LossCall:
        """Return what the user's loop told, completed by what was seen."""
        seen = seen or cls()
        return cls(
            seen.loss,
            seen.outputs if outputs is None else torch.as_tensor(outputs).detach(),
            seen.targets if targets is None else torch.as_tensor(targets).detach(),
            seen.rows,
            output_activation(outputs) if isinstance(outputs, Tensor) else seen.activation,
        )

    def copied(self) -> LossCall:
        """Return the same with copies of as many rows as may be kept, and no reference to the user's tensors."""
        rows = row_count(self.outputs, self.targets)
        return replace(self, outputs=rows_of(self.outputs, rows), targets=rows_of(self.targets, rows))


def loss_of(output: Any) -> Tensor | None:
    """Return the loss in what a loss module returns: the first floating-point tensor."""
    return first_tensor(output, floating=True)


def output_activation(tensor: Tensor) -> str | None:
    """Return the activation that a tensor went through last, by its place in the autograd graph, or None."""
    node: Any = tensor.grad_fn
    logs = {"softmax": "log_softmax", "sigmoid": "log_sigmoid"}
    logged = False
    for _ in range(8):
        if node is None:
            return None
        name = node.name().split("::")[-1]
        name = name.split("Backward")[0]
        if name in _BY_GRADIENT:
            found = _BY_GRADIENT[name]
            return logs.get(found) if logged else found
        logged = logged or name == "Log"
        if name not in _NEUTRAL or not node.next_functions:
            return None
        node = node.next_functions[0][0]
    return None
