"""What a backend keeps attached to a watched training, as the monitor sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from autotrainer.rule import Place

__all__ = ["EpochObserver", "Locator", "Observer"]


class Observer(Protocol):
    """What a backend keeps attached to a watched training."""

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Take what the user's loop tells: tensors of the framework, or None."""

    def close(self) -> None:
        """Detach everything from the user's objects."""


@runtime_checkable
class EpochObserver(Observer, Protocol):
    """An observer that knows something of an epoch by itself."""

    def epoch_values(self) -> Mapping[str, float]:
        """Return what was seen of the epoch that ends now, by name; what the user tells goes before it.

        ``evaluation_mode`` is 1 if the model was evaluated with dropout and batch normalization in training mode, 0 if
        in evaluation mode.
        """


@runtime_checkable
class Locator(Observer, Protocol):
    """An observer that knows the user's code."""

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is made, or the loss or the step is called; empty if unknown."""
