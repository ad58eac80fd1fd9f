"""Edits that protect a training while it runs: bad steps, bad epochs, dormant units, stale state, mode, precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from autotrainer.edits.base import Edit, Fraction, Layers, Positive, Range, Whole, join_names

__all__ = [
    "RaisePrecision",
    "ResetOptimizerState",
    "RestoreZeroGrad",
    "ReviveUnits",
    "Rollback",
    "SetMode",
    "SkipUpdates",
]


_NOISE_SHARE = 0.1
"""Share of the loss's decrease so far that always counts as noise: near zero a loss may double without harm."""


@dataclass(frozen=True, slots=True)
class SkipUpdates(Edit):
    """Skip the steps whose gradient is not finite, or whose gradient norm is far above that of previous steps.

    Attributes:
        deviations: Standard deviations above the mean norm of the last steps from which a step is skipped, > 0.
        window: How many of the last norms count, >= 2; no finite gradient is skipped before half of them are known.
    """

    deviations: Positive = 6.0
    window: Annotated[int, Range(least=2)] = 128

    def __str__(self) -> str:
        return (
            "steps skipped whose gradient is not finite, or has a norm more than "
            f"{self.deviations:g} standard deviations above the mean of the last {self.window}"
        )


@dataclass(frozen=True, slots=True)
class Rollback(Edit):
    """Restore weights and optimizer from the end of the best epoch when the training loss has gone bad.

    Attributes:
        limit: The loss is bad where it is not finite, or this many times the best epoch's, > 1.
        shrink: What the learning rate is then multiplied by, in (0, 1].
    """

    memory: ClassVar[bool] = True
    limit: Annotated[float, Range(above=1)] = 2.0
    shrink: Annotated[float, Range(above=0, most=1)] = 0.5

    def __str__(self) -> str:
        text = (
            "weights and optimizer of the best epoch restored when the training loss is not finite or "
            f"{self.limit:g} times its best"
        )
        return text + (f", learning rate then multiplied by {self.shrink:g}" if self.shrink < 1 else "")

    def is_setback(self, loss: float, *, best: float, first: float) -> bool:
        """Return whether the mean training loss of an epoch has gone bad.

        Args:
            loss: The loss.
            best: Lowest loss of an epoch so far.
            first: Loss of the first epoch with a finite one.
        """
        if not math.isfinite(loss):
            return True
        return loss - best > max((self.limit - 1) * abs(best), _NOISE_SHARE * (first - best))


@dataclass(frozen=True, slots=True)
class ReviveUnits(Edit):
    """Between epochs, reinitialize the incoming weights of dormant units of these hidden layers.

    Attributes:
        layers: Dense and convolution layers with an activation.
        threshold: Mean output of a unit ÷ mean over the layer's units, up to which it is dormant, in [0, 1).
    """

    change: ClassVar[int] = 1
    revival_share: ClassVar[float] = 0.75
    """Share of the epochs in which units are reinitialized: later they would have no time to learn."""
    layers: Layers
    threshold: Fraction = 0.025

    def __str__(self) -> str:
        return (
            f"{join_names(self.layers)}: dormant units reinitialized between epochs "
            f"(mean output at most {self.threshold:g} of the layer's mean)"
        )


@dataclass(frozen=True, slots=True)
class ResetOptimizerState(Edit):
    """Start with an empty optimizer state, and clear it again every so many epochs (0: never)."""

    example_values: ClassVar[Mapping[str, Any]] = {"every": 1}
    every: Whole = 0

    def __str__(self) -> str:
        times = {0: "at the start", 1: "at the start of each epoch"}
        return f"optimizer state cleared {times.get(self.every, f'at the start and after every {self.every} epochs')}"


@dataclass(frozen=True, slots=True)
class RestoreZeroGrad(Edit):
    """Reset the gradients after each step of the optimizer."""

    def __str__(self) -> str:
        return "gradients reset after each step"


@dataclass(frozen=True, slots=True)
class SetMode(Edit):
    """Run the model in training mode where gradients are recorded, and in evaluation mode elsewhere."""

    def __str__(self) -> str:
        return "training mode in training steps, evaluation mode in evaluations"


@dataclass(frozen=True, slots=True)
class RaisePrecision(Edit):
    """Train in single precision instead of half precision."""

    change: ClassVar[int] = 1
    memory: ClassVar[bool] = True
    affects: ClassVar[str | None] = "output"

    def __str__(self) -> str:
        return "single precision (float32) throughout"
