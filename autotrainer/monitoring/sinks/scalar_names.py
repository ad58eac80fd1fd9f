"""Names of scalars for sinks: short, unique, and accepted by every tracker, whatever the layers are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats

__all__ = ["MAX_LAYERS", "ScalarNames"]

MAX_LAYERS = 100
"""Layers of which scalars are passed on; of more, as many evenly spaced ones, and those that findings name."""
_HEAD, _TAIL = 19, 40
"""Characters that are kept of the two ends of a long name: 60 in all are at most 240 bytes, which a file can be named
by (MLflow)."""

_PREFIX = "autotrainer"
_STEP_SCALARS = ("loss", "learning_rate", "grad_norm", "accuracy", "loss_scale", "feature_rank", "gradient_cosine")
_LAYER_SCALARS = (
    "grad_norm",
    "grad_zero_fraction",
    "weight_norm",
    "update_ratio",
    "activation_mean_abs",
    "activation_std",
    "activation_max_abs",
    "dead_units",
    "saturated",
    "dormant",
    "attention_entropy",
    "attention_max_logit",
)
_STEP_NAMES = [f"{_PREFIX}/{name}" for name in _STEP_SCALARS]
_STEP_INDEX = [STEP_COLUMNS.index(name) for name in _STEP_SCALARS]
_LAYER_INDEX = [LAYER_COLUMNS.index(name) for name in _LAYER_SCALARS]
_TERMS, _EPOCH = "loss_terms", "epoch"


class ScalarNames:
    """Turns the tables of sampled steps into scalars by name.

    Args:
        layers: The rows of the layer table.
    """

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        # a file store has a file of such a name where a layer needs a folder
        self._components = _unique((layer.name or "model" for layer in layers), (*_STEP_SCALARS, _TERMS, _EPOCH))
        self._rows = {layer.name: row for row, layer in enumerate(layers)}
        self._names: dict[int, list[str]] = {}
        for row in _spaced(layers):
            self._add(row)
        self._added = 0

    def include(self, layers: Iterable[str]) -> None:
        """Pass on the scalars of these layers from now on, as findings name them: `MAX_LAYERS` at most."""
        for layer in layers:
            row = self._rows.get(layer)
            if row is not None and self._added < MAX_LAYERS and row not in self._names:
                self._added += 1
                self._add(row)

    def _add(self, row: int) -> None:
        self._names[row] = [f"{_PREFIX}/{self._components[row]}/{name}" for name in _LAYER_SCALARS]

    def of_step(self, stats: StepStats) -> dict[str, float]:
        """Return what was measured at a sampled step, as Python floats."""
        values = dict(zip(_STEP_NAMES, stats.scalars[_STEP_INDEX].tolist(), strict=True)) | _group(_TERMS, stats.terms)
        table = stats.layers[np.ix_(list(self._names), _LAYER_INDEX)].tolist()
        for names, numbers in zip(self._names.values(), table, strict=True):
            values.update(zip(names, numbers, strict=True))
        return {name: value for name, value in values.items() if value == value}  # not NaN: not measured

    @staticmethod
    def of_epoch(numbers: Mapping[str, float]) -> dict[str, float]:
        """Return the values of an epoch, as Python floats."""
        return {name: value for name, value in _group(_EPOCH, numbers).items() if value == value}


def _group(group: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{_PREFIX}/{group}/{c}": float(v) for c, v in zip(_unique(values), values.values(), strict=True)}


def _spaced(layers: Sequence[LayerInfo]) -> list[int]:
    """Return rows of layers with parameters if these alone are few enough, evenly spaced ones of too many."""
    rows = list(range(len(layers)))
    if len(rows) > MAX_LAYERS:
        rows = [row for row in rows if layers[row].parameters] or rows
    if len(rows) > MAX_LAYERS:
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, MAX_LAYERS).astype(int)]
    return rows


def _unique(names: Iterable[str], reserved: Iterable[str] = ()) -> list[str]:
    """Return one component of a path for each name: letters, digits, ``_``, ``-``, ``.``; equal ones are numbered."""
    taken = set(reserved)
    components = []
    for name in names:
        base = re.sub(r"[^\w.-]", "_", name).strip(".") or "_"
        if len(base) > _HEAD + 1 + _TAIL:
            base = f"{base[:_HEAD]}_{base[-_TAIL:]}"
        component, number = base, 1
        while component.lower() in taken:  # some file systems ignore case
            number += 1
            component = f"{base}_{number}"
        taken.add(component.lower())
        components.append(component)
    return components
