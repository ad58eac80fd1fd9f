"""What all backends measure alike: columns of layer outputs, kinds of activations, and subsets of large tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from autotrainer.records.signals import ATTENTION_LOGITS, ATTENTION_QUERIES, ATTENTION_SAMPLES

__all__ = [
    "ATTENTION_COLUMNS",
    "LOOKUP_COLUMNS",
    "ORDERED",
    "OUTPUT_COLUMNS",
    "SATURATION_SLOPE",
    "WITHOUT_UNITS",
    "ZERO_REGION",
    "attention_subset",
    "fused_axis",
    "is_norm_name",
    "names_positions",
    "normalizes_features",
]

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

ATTENTION_COLUMNS = (
    "attention_entropy",
    "attention_max_logit",
    "head_entropy_min",
    "head_entropy_max",
    "head_logit_std_min",
    "head_logit_std",
    "narrowest_head",
    "widest_head",
    "attention_ahead",
    "padding_shown",
)
"""Columns of the layer table that are measured on the attention of layers."""

LOOKUP_COLUMNS = (
    "lookups_without_gradient",
    "frequent_rows",
    "rows_without_gradient",
    "rows_of_zero",
    "typical_row_gradient",
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


_FUSED = frozenset({"cattn", "qkv", "qkvproj", "wqkv", "inproj", "toqkv", "attnqkv", "inprojweight"})
"""Names of matrices that make queries, keys and values at once, one after the other, without underscores."""

_INTERLEAVED = frozenset({"querykeyvalue"})
"""Names of matrices that make them head by head."""


def fused_axis(path: str, shape: Sequence[int]) -> int | None:
    """Return the axis along which a matrix joins the projections to queries, keys and values, one after the other.

    Three times as many outputs as inputs, and a name that says so, or a place inside of an attention layer.

    Args:
        path: Name of its layer, with dots or slashes.
        shape: Its shape, of two axes.

    Returns:
        The axis, or None if the matrix is a single one.
    """
    if len(shape) != 2 or 0 in shape or max(shape) != 3 * min(shape):
        return None
    *parents, leaf = re.split(r"[./]", path.lower())
    leaf = leaf.replace("_", "")
    inside = bool(parents) and ("attn" in parents[-1] or "attention" in parents[-1])
    if leaf not in _FUSED and (not inside or leaf in _INTERLEAVED):
        return None
    return 0 if shape[0] > shape[1] else 1


def is_norm_name(name: str) -> bool:
    """Return whether a class of somebody else is a normalization by its name (``T5LayerNorm``, ``LlamaRMSNorm``)."""
    return "norm" in name.lower()


def normalizes_features(name: str) -> bool:
    """Return whether such a class gives the features of each position a root mean square of 1, by its name.

    Gated ones multiply by something else afterwards.
    """
    name = name.lower().replace("_", "")
    return ("layernorm" in name or "rmsnorm" in name) and "gate" not in name
