"""The role of a layer in a block, from its name and shape, and words for it."""

from __future__ import annotations

import re

from autotrainer.records.signals import LayerInfo

__all__ = ["role_of", "role_words", "split_number"]

_LEAVES = {
    "query": frozenset({"q", "query", "queries", "wq", "toq"}),
    "key": frozenset({"k", "key", "keys", "wk", "tok"}),
    "value": frozenset({"v", "value", "values", "wv", "tov"}),
    "projection": frozenset({"o", "wo", "outproj", "oproj", "toout", "outlin", "attentionoutput", "attnoutput"}),
    "expand": frozenset({"fc1", "cfc", "lin1", "linear1", "wi", "w1", "up", "upproj", "fcin", "denseh4h", "expand"}),
    "gate": frozenset({"gate", "gateproj", "w3", "wi0"}),
    "contract": frozenset({"fc2", "lin2", "linear2", "w2", "down", "downproj", "fcout", "dense4hh", "contract"}),
}
"""Usual names of matrices, in lower case without underscores; with or without one of `_SUFFIX` at the end."""

_SUFFIX = re.compile(r"(projection|proj|dense|linear|lin|layer)$")

_WORDS = {
    "query": "query projection",
    "key": "key projection",
    "value": "value projection",
    "projection": "output projection of the attention layer",
    "expand": "first feed-forward matrix",
    "gate": "gate of the feed-forward layer",
    "contract": "second feed-forward matrix",
}
_OUTPUTS = frozenset({"proj", "cproj", "dense", "output", "out", "outputdense"})
_NUMBER = re.compile(r"(.*?)_?(\d+)")


def split_number(segment: str) -> tuple[str, int | None]:
    """Return a segment of a name without the number at its end, and that number: ``block_3`` is (``block``, 3)."""
    match = _NUMBER.fullmatch(segment)
    return (match[1], int(match[2])) if match else (segment, None)


def role_of(info: LayerInfo, part: str = "") -> str:
    """Return the role of a layer: a key of `_WORDS`, or an empty string if it is none of these.

    Args:
        info: The layer.
        part: One of `PARTS`, if only this part of its weights is meant.
    """
    if part or info.kind in ("norm", "embedding", "conv", "recurrent", "activation"):
        return part
    *parents, leaf = re.split(r"[./]", info.name.lower())
    leaf = leaf.replace("_", "")
    above = ".".join(parents[-2:])
    attention = "attn" in above or "attention" in above
    for role, leaves in _LEAVES.items():
        if leaf in leaves or _SUFFIX.sub("", leaf) in leaves:
            return role
    if leaf in _OUTPUTS and attention:
        return "projection"
    if info.kind == "attention" or info.units is None or info.inputs is None or attention:
        return ""
    return "expand" if info.units > info.inputs else "contract" if info.units < info.inputs else ""


def role_words(info: LayerInfo, part: str = "") -> str:
    """Return a noun phrase for a layer in its block: ``key projection``, ``normalization norm1``."""
    role = role_of(info, part)
    if role:
        cross = "cross-attention " if "cross" in info.name.lower() or "encoder_attn" in info.name.lower() else ""
        return cross + _WORDS[role]
    leaf = re.split(r"[./]", info.name)[-1]
    kinds = {"norm": "normalization", "attention": "attention layer", "embedding": "embedding"}
    return f"{kinds.get(info.kind, 'layer')} {leaf}"
