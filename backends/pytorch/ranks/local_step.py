"""What a process measures of a sampled step, as others add to it."""

from __future__ import annotations

from typing import Protocol

from autotrainer.backends.pytorch.ranks.shards import Shards
from autotrainer.records.signals import Floats, Observation

__all__ = ["LocalMeasurement", "LocalStep"]


class LocalStep(Protocol):
    """What this process has measured of a sampled step."""

    observation: Observation

    @property
    def weights(self) -> Floats:
        """Norms of the weights that it holds, by row of the layer table."""

    @property
    def gradients(self) -> Floats:
        """Norms of the gradients that it holds, by row of the layer table."""

    @property
    def activations(self) -> Floats:
        """The layer table, as far as activations are concerned."""

    @property
    def parts(self) -> Floats:
        """What is added up over processes that hold parts of the model."""

    def add_up(self, parts: Floats | None) -> None:
        """Take the sum of `parts` over all processes for this process' own; None: it is not known."""

    def complete(self) -> Observation:
        """Return the whole observation."""


class LocalMeasurement(Protocol):
    """Measures sampled steps."""

    @property
    def shards(self) -> Shards:
        """How the parameters are spread over processes."""

    @property
    def description(self) -> str:
        """Describes what is trained: equal in all processes that hold replicas or parts of one model."""

    @property
    def layout(self) -> tuple[int, int]:
        """Number of rows of the layer table, and length of `LocalStep.parts`."""
