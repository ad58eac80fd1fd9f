"""Edits that watch over a training while it runs: bad steps, bad epochs, idle units, stale state, mode, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autotrainer.edits.base import Edit, check_number

__all__ = [
    "RaisePrecision",
    "ResetOptimizerState",
    "RestoreZeroGrad",
    "ReviveUnits",
    "Rollback",
    "SetMode",
    "SkipUpdates",
]


@dataclass(frozen=True, slots=True)
class SkipUpdates(Edit):
    """Take no step along a gradient that is not finite, or whose norm is far above that of the steps before.

    Attributes:
        deviations: Standard deviations above the mean norm of the last steps from which it is left out, > 0.
        window: How many of the last norms count, >= 2; nothing finite is left out before half of them are known.
    """

    deviations: float = 6.0
    window: int = 128

    def __post_init__(self) -> None:
        check_number(self, "deviations", above=0)
        check_number(self, "window", least=2, whole=True)


@dataclass(frozen=True, slots=True)
class Rollback(Edit):
    """Put weights and optimizer back to the end of the best epoch where the training loss has gone bad.

    Attributes:
        limit: The loss is bad where it is not finite, or this many times the best epoch's, > 1.
        shrink: What the learning rate is then multiplied by, in (0, 1].
    """

    memory: ClassVar[bool] = True
    limit: float = 2.0
    shrink: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "limit", above=1)
        check_number(self, "shrink", above=0, most=1)


@dataclass(frozen=True, slots=True)
class ReviveUnits(Edit):
    """Between epochs, draw the incoming weights of idle units of these hidden layers anew.

    Attributes:
        layers: Dense and convolution layers with an activation.
        threshold: Mean output of a unit ÷ mean over the layer's units, up to which it is idle, in [0, 1).
    """

    change: ClassVar[int] = 1
    layers: tuple[str, ...]
    threshold: float = 0.025

    def __post_init__(self) -> None:
        check_number(self, "threshold", least=0, below=1)


@dataclass(frozen=True, slots=True)
class ResetOptimizerState(Edit):
    """Begin with an optimizer that remembers nothing, and make it forget again every so many epochs (0: never)."""

    every: int = 0

    def __post_init__(self) -> None:
        check_number(self, "every", least=0, whole=True)


@dataclass(frozen=True, slots=True)
class RestoreZeroGrad(Edit):
    """Reset the gradients after each step of the optimizer."""


@dataclass(frozen=True, slots=True)
class SetMode(Edit):
    """Run the model in training mode where gradients are recorded, and in evaluation mode elsewhere."""


@dataclass(frozen=True, slots=True)
class RaisePrecision(Edit):
    """Train in single precision in place of half precision."""

    change: ClassVar[int] = 1
    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "output"
