"""Modules around a whole model that bring its tokens or its outputs into the order that was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.layers.modules import Wrapper

__all__ = ["LeadingPadding", "RestoredAxes"]


class LeadingPadding(Wrapper):
    """A model whose sequences of tokens are padded at the start instead of the end.

    Args:
        module: The model; takes tokens of shape (rows, positions), and nothing that has to keep their order.
        token: The token that pads.
    """

    def __init__(self, module: nn.Module, token: int) -> None:
        super().__init__(module)
        self.token = token

    def change(self, value: Any) -> Any:
        """Return tokens with their padding at the start; anything else as it is."""
        if not isinstance(value, Tensor) or value.ndim != 2 or value.is_floating_point():
            return value
        positions = torch.arange(value.shape[1], device=value.device)
        lengths = ((value != self.token) * (positions + 1)).amax(1, keepdim=True)  # padding within a row stays
        return value.gather(1, (positions + lengths) % value.shape[1])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped model on tokens with their padding at the start."""
        named: Mapping[str, Any] = {name: self.change(value) for name, value in kwargs.items()}
        return self.module(*map(self.change, args), **named)

    def extra_repr(self) -> str:
        """Return the options that ``print`` shows."""
        return f"token={self.token}"


class RestoredAxes(Wrapper):
    """A model whose outputs get their axes exchanged where it reshapes them.

    Args:
        module: The model; returns a tensor that it has reshaped from (n, positions, …, classes) to
            (n, classes, positions, …).
    """

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the wrapped model, and move the axis of the classes of its outputs."""
        output: Tensor = self.module(*args, **kwargs)
        return output.reshape(len(output), *output.shape[2:], output.shape[1]).movedim(-1, 1)
