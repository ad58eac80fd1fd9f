"""Modules that drop values at random in training mode, and their rates."""

from __future__ import annotations

from torch import nn

from autotrainer.backends.pytorch.runtime.torch_private import Dropout

__all__ = ["dropout_rate", "largest_dropout_rate", "set_dropout_rate"]

_PATH_DROPOUTS = frozenset({"DropPath", "StochasticDepth"})
"""Modules of other libraries that drop whole paths at random, by class name."""


def dropout_rate(module: nn.Module) -> float:
    """Return the share of values that a module itself drops at random in training mode; 0 for none."""
    attribute = _attribute(module)
    rate = getattr(module, attribute, 0.0) if attribute else 0.0  # `nn.Module` takes long not to find one
    return float(rate) if isinstance(rate, int | float) else 0.0


def largest_dropout_rate(model: nn.Module) -> float:
    """Return the largest dropout rate of a module of a model; 0 without any."""
    return max((dropout_rate(module) for module in model.modules()), default=0.0)


def set_dropout_rate(module: nn.Module, rate: float) -> None:
    """Set the share of values that a module with such a rate drops."""
    setattr(module, _attribute(module), rate)


def _attribute(module: nn.Module) -> str:
    """Return the name of the attribute that holds the rate; empty if the module drops nothing."""
    if isinstance(module, Dropout) or type(module).__name__ in _PATH_DROPOUTS:
        return "p" if hasattr(module, "p") else "drop_prob"
    if isinstance(module, nn.MultiheadAttention) or (isinstance(module, nn.RNNBase) and module.num_layers > 1):
        return "dropout"
    return ""
