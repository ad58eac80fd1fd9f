"""What backends measure of the outputs of layers: the same activations, and the same part of large tensors."""

from __future__ import annotations

import math

from autotrainer.records.signals import ATTENTION_LOGITS, ATTENTION_QUERIES, ATTENTION_SAMPLES

__all__ = ["OUTPUT_COLUMNS", "SATURATION_SLOPE", "WITHOUT_UNITS", "ZERO_REGION", "attention_subset"]

OUTPUT_COLUMNS = (
    "activation_mean_abs",
    "activation_std",
    "activation_max_abs",
    "activation_spread",
    "saturated",
    "dormant",
    "dead_units",
)
"""Columns of the layer table that are measured on the outputs of layers."""

ZERO_REGION = frozenset({"relu", "relu6", "clipped_relu", "thresholded_relu"})
"""Activations that are exactly zero for all inputs below some point: their units can be dead."""

WITHOUT_UNITS = frozenset({"linear", "softmax", "softmin", "log_softmax"})
"""Activations after which no unit counts as dormant: none at all, and those that make shares of the units."""

SATURATION_SLOPE = 1e-3
"""Slope, relative to its largest one, below which an entry of a bounded activation counts as saturated."""


def attention_subset(samples: int, heads: int, queries: int, keys: int) -> tuple[int, int]:
    """Return how many samples of an attention layer are measured, and the stride of their queries.

    See `ATTENTION_LOGITS`: queries are left out first, then samples.
    """
    samples, chosen = min(samples, ATTENTION_SAMPLES), min(queries, ATTENTION_QUERIES)
    chosen = max(1, min(chosen, ATTENTION_LOGITS // (samples * heads * keys)))
    samples = max(1, min(samples, ATTENTION_LOGITS // (chosen * heads * keys)))
    return samples, math.ceil(queries / chosen)
