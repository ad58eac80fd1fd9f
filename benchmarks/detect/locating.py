"""Whether a finding names the component of a transformer that a fault is in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.execution.pool import Row

__all__ = ["names_component"]

_LAYERS: Mapping[str, str] = {
    "attention": r"attention",
    "embedding": r"(?<![a-z])tokens(?![a-z])",
    "feed_forward": r"feed_forward|expand|contract",
    "head": r"(?<![a-z])head(?![a-z])",
    "normalization": r"(?<![a-z])norm\d?(?![a-z])",
    "positions": r"positions",
    "residual": r"blocks?[._]\d+$",
}
"""What the name of a layer of a component looks like."""

_WORDS: Mapping[str, str] = {
    "mask": r"\bmask",
    "positions": r"\bpositions?\b",
    "residual": r"\b(residual|shortcut|skip connection)",
}
"""Words that name a component that is no layer, or not only one."""


def names_component(finding: Row, component: str) -> bool:
    """Return whether a finding names a component: by its first layer, or in the words of its message."""
    layers = finding.get("layers") or [""]
    return any(
        component in patterns and re.search(patterns[component], text) is not None
        for patterns, text in ((_LAYERS, layers[0]), (_WORDS, finding.get("message", "")))
    )
