"""What all backends measure alike: columns of layer outputs, kinds of activations, and subsets of large tensors."""

from __future__ import annotations

import math
import re

from autotrainer.records.signals import ATTENTION_LOGITS, ATTENTION_QUERIES, ATTENTION_SAMPLES

__all__ = [
    "LOOKUP_COLUMNS",
    "ORDERED",
    "OUTPUT_COLUMNS",
    "SATURATION_SLOPE",
    "WITHOUT_UNITS",
    "ZERO_REGION",
    "attention_subset",
]
__all__ += ["names_positions"]

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

LOOKUP_COLUMNS = (
    "lookups_without_gradient",
    "frequent_rows",
    "rows_without_gradient",
    "rows_of_zero",
    "padding_between",
    "rising_indices",
    "equal_indices",
    "position_grad_norm",
)
"""Columns of the layer table about embeddings."""

ORDERED = 8
"""Indices of a sequence from which the place of padding shows whether it is padding."""

_POSITIONS = re.compile(r"wpe|pe|pos|positions?|(\w+_)?pos(ition(s|al)?)?_?(emb|enc|table)\w*")


def names_positions(path: str) -> bool:
    """Return whether a part of a path names embeddings of positions.

    >>> names_positions("transformer.wpe.weight"), names_positions("encoder/position_embedding/embeddings")
    (True, True)
    >>> names_positions("pos_embed"), names_positions("compose.weight"), names_positions("pos_head")
    (True, False, False)
    """
    return any(_POSITIONS.fullmatch(part) for part in re.split(r"[./]", path.lower()))


ZERO_REGION = frozenset({"relu", "relu6", "clipped_relu", "thresholded_relu"})
"""Activations that are exactly zero below some input: their units can be dead."""

WITHOUT_UNITS = frozenset({"linear", "softmax", "softmin", "log_softmax"})
"""Activations for which dormant units are not defined: the identity, and those that normalize over the units."""

SATURATION_SLOPE = 1e-3
"""Slope relative to the largest one, below which an entry of a bounded activation counts as saturated."""


def attention_subset(samples: int, heads: int, queries: int, keys: int) -> tuple[int, int]:
    """Return the number of samples of an attention layer to measure, and the stride of their queries.

    See `ATTENTION_LOGITS`: queries are dropped first, then samples.
    """
    samples, measured = min(samples, ATTENTION_SAMPLES), min(queries, ATTENTION_QUERIES)
    measured = max(1, min(measured, ATTENTION_LOGITS // (samples * heads * keys)))
    samples = max(1, min(samples, ATTENTION_LOGITS // (measured * heads * keys)))
    return samples, math.ceil(queries / measured)
