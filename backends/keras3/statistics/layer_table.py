"""The layer table of a sampled step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.statistics.activations import ActivationStatistics
from autotrainer.backends.keras3.statistics.attention import attention_values
from autotrainer.backends.keras3.statistics.embeddings import EmbeddingStatistics, measures_lookups
from autotrainer.backends.keras3.statistics.normalization import NormVectors, norm_vectors, normalization_values
from autotrainer.backends.keras3.statistics.weights import WeightStatistics
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.measurement import ATTENTION_COLUMNS, OUTPUT_COLUMNS
from autotrainer.records.signals import LAYER_COLUMNS, NORM_COLUMNS, Floats

__all__ = ["LayerTable"]


class LayerTable:
    """Fills the layer tables of successive sampled steps.

    Args:
        layers: Rows of the table.
        guard: Measures statistics, so that one that fails is left out alone.
        needs: Columns to measure, None for all; those of activations are measured together or not at all.
    """

    def __init__(
        self, layers: Sequence[WatchedLayer], guard: StatisticGuard, needs: frozenset[str] | None = None
    ) -> None:
        self.layers = tuple(layers)
        self._guard = guard
        self._measures_outputs = needs is None or not needs.isdisjoint(OUTPUT_COLUMNS)
        self._measures_attention = needs is None or not needs.isdisjoint(ATTENTION_COLUMNS)
        measures_norms = needs is None or not needs.isdisjoint(NORM_COLUMNS)
        self._norm_rows = [row for row, part in enumerate(layers) if measures_norms and part.info.kind == "norm"]
        self._norm_vectors: dict[int, NormVectors] = {}
        self._measures_lookups = measures_lookups(needs)
        self._embeddings = EmbeddingStatistics()
        self._activations = ActivationStatistics(layers)
        self._weights = WeightStatistics(layers, guard, needs)

    @property
    def gradient_cosine(self) -> float:
        """Cosine similarity of the gradients of the last two measured steps; NaN if unknown."""
        return self._weights.gradient_cosine

    @property
    def gradient_factor(self) -> float:
        """What clipping by the optimizer leaves of the gradient; NaN if it does not clip."""
        return self._weights.gradient_factor

    def before_step(self) -> None:
        """Store norm and sampled entries of all trainable weights, and scale and bias of normalizations."""
        self._weights.before_step()
        vectors = {
            row: self._guard.measure("normalization", norm_vectors, self.layers[row], row=row)
            for row in self._norm_rows
        }
        self._norm_vectors = {row: pair for row, pair in vectors.items() if pair is not None}

    def table(
        self, recorded: Mapping[str, Any], *, scale: float = 1.0, updated: bool = True, optimizers: Sequence[Any] = ()
    ) -> Floats:
        """Return the layer table of the step just taken.

        Args:
            recorded: Tensors of `StepRecorder.train_step`: ``activation:<row>``, ``gradient:<row>:<weight>``,
                ``attention:<row>:…``, ``lookup:<row>``.
            scale: Factor by which the loss, and therefore the gradients, are scaled.
            updated: Whether the optimizer changed weights in this step, rather than only accumulated gradients.
            optimizers: The optimizers of the step.

        Returns:
            Shape (layers, len(LAYER_COLUMNS)).
        """
        table = np.full((len(self.layers), len(LAYER_COLUMNS)), np.nan)
        with np.errstate(all="ignore"):
            rows = self._weights.values(recorded, scale, updated, optimizers)
            for row, (watched, values) in enumerate(zip(self.layers, rows, strict=True)):
                output = recorded.get(f"activation:{row}")
                measure = partial(self._guard.measure, row=row)
                if self._measures_outputs and output is not None and math.prod(output.shape):
                    values |= measure("activations", self._activations.values, row, watched, output) or {}
                if row in self._norm_vectors and output is not None and math.prod(output.shape):
                    vectors = self._norm_vectors[row]
                    values |= measure("normalization", normalization_values, watched, output, vectors) or {}
                if self._measures_attention:
                    values |= measure("attention", attention_values, row, recorded) or {}
                if self._measures_lookups:
                    values |= measure("embeddings", self._embeddings.values, row, watched, recorded, scale) or {}
                table[row] = [values.get(column, np.nan) for column in LAYER_COLUMNS]
        return table
