"""Filling the layer table of one sampled step after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.statistics.activations import ActivationStatistics
from autotrainer.backends.keras3.statistics.attention import ATTENTION_COLUMNS, attention_values
from autotrainer.backends.keras3.statistics.weights import WeightStatistics
from autotrainer.records.measurement import OUTPUT_COLUMNS
from autotrainer.records.signals import LAYER_COLUMNS, Floats

__all__ = ["LayerTable"]


class LayerTable:
    """Fills the layer table of one sampled step after the other.

    Args:
        parts: The layers: rows of the table.
        needs: Columns that are worth measuring, None for all; those of activations are left out together.
    """

    def __init__(self, parts: Sequence[Part], needs: frozenset[str] | None = None) -> None:
        self.parts = tuple(parts)
        self._sees_outputs = needs is None or not needs.isdisjoint(OUTPUT_COLUMNS)
        self._sees_attention = needs is None or not needs.isdisjoint(ATTENTION_COLUMNS)
        self._activations = ActivationStatistics(parts)
        self._weights = WeightStatistics(parts, needs)

    @property
    def gradient_cosine(self) -> float:
        """Cosine of the angle between the gradients of the last two steps measured; NaN where it is not known."""
        return self._weights.gradient_cosine

    def before_step(self) -> None:
        """Remember norm and sampled entries of all trainable weights."""
        self._weights.before_step()

    def table(
        self, seen: Mapping[str, Any], *, scale: float = 1.0, updated: bool = True, optimizers: Sequence[Any] = ()
    ) -> Floats:
        """Return the layer table of the step that has just been taken.

        Args:
            seen: What `recording.Recorder` recorded: ``activation:<row>``, ``gradient:<row>:<weight>``,
                ``attention:<row>:…``.
            scale: Factor by which the loss was scaled, and so the gradients are.
            updated: Whether the optimizer changed weights in this step (not when it only accumulates).
            optimizers: Those that took the step.

        Returns:
            Shape (layers, len(LAYER_COLUMNS)).
        """
        table = np.full((len(self.parts), len(LAYER_COLUMNS)), np.nan)
        with np.errstate(all="ignore"):
            found = self._weights.values(seen, scale, updated, optimizers)
            for row, (part, values) in enumerate(zip(self.parts, found, strict=True)):
                output = seen.get(f"activation:{row}")
                if self._sees_outputs and output is not None and math.prod(output.shape):
                    values |= self._activations.values(row, part, output)
                if self._sees_attention:
                    values |= attention_values(row, seen)
                table[row] = [values.get(column, np.nan) for column in LAYER_COLUMNS]
        return table
