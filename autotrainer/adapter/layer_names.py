"""Layers of a model that was built again: Keras goes on numbering them, so that ``dense_1`` becomes ``dense_3``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotrainer.records.findings import Finding
from autotrainer.records.signals import LayerInfo

__all__ = ["match_renumbered", "rename_finding", "rename_layers"]

_NUMBER = re.compile(r"_\d+(?=$|[/.])")
"""The number that makes an automatic name unique, at the end of each part of a path."""


def match_renumbered(before: Sequence[LayerInfo], now: Sequence[LayerInfo]) -> dict[str, str] | None:
    """Return the present name of each layer of an earlier model, by its name there; None if these are other layers.

    Layers are the same if they stand at the same places and have the same kinds and sizes, and if their names differ in
    nothing but such numbers.

    Args:
        before: Layers of the earlier model, in forward order.
        now: Layers of the present one.
    """
    if [_identity(layer) for layer in before] != [_identity(layer) for layer in now]:
        return None
    return {old.name: new.name for old, new in zip(before, now, strict=True)}


def rename_layers(layers: Sequence[LayerInfo], names: Mapping[str, str]) -> tuple[LayerInfo, ...]:
    """Return layers by their new names."""
    return tuple(
        replace(layer, name=names[layer.name], tied_to=names.get(layer.tied_to, layer.tied_to)) for layer in layers
    )


def rename_finding(finding: Finding, names: Mapping[str, str]) -> Finding:
    """Return a finding whose layers have their new names, also in its message."""
    layers = tuple(names.get(name, name) for name in finding.layers)
    message = re.sub(
        r"[\w./-]*\w",
        lambda word: names.get(word[0], word[0]) if word[0] in finding.layers else word[0],
        finding.message,
    )
    return replace(finding, layers=layers, message=message)


def _identity(layer: LayerInfo) -> tuple[object, ...]:
    return (_NUMBER.sub("", layer.name), layer.kind, layer.units, layer.inputs, layer.parameters)
