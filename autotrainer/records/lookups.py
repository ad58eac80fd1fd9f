"""What is measured of embeddings, and which of them are embeddings of positions, by their names."""

from __future__ import annotations

import re

__all__ = ["LOOKUP_COLUMNS", "ORDERED", "names_positions"]

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
