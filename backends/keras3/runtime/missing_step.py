"""Counts the gradients of a loop of the user's own that never calls an optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MissingStep"]

_WEIGHTS, _NOTED = 16, 64
"""Weights that are noted, spread over the model with the last one, and values of each, spread over them."""


class MissingStep:
    """Counts computed gradients until the first step, and notes some weights: a loop may change them by itself."""

    def __init__(self) -> None:
        self._gradients = 0
        self._noted: list[NDArray[Any]] = []

    def differentiated(self, model: Any) -> None:
        """Note that gradients of the loss of a model are computed, before any step."""
        if not self._gradients:
            self._noted = _some_values(model)
        self._gradients += 1

    def facts(self, model: Any) -> dict[str, float]:
        """Return the facts of a training without a step; see `autotrainer.records.facts.FACTS`."""
        if not self._gradients or model is None:
            return {}
        changed = any(
            before.shape != now.shape or (before != now).any()
            for before, now in zip(self._noted, _some_values(model), strict=False)
        )
        losses = {"losses_without_step": float(self._gradients), "weights_changed": float(changed)}
        return {"calls_without_step": 1.0, **losses}


def _some_values(model: Any) -> list[NDArray[Any]]:
    weights = model.trainable_variables
    chosen = {round(place) for place in np.linspace(0, len(weights) - 1, _WEIGHTS)} if weights else set()
    values = (np.array(weights[place].numpy()).reshape(-1) for place in sorted(chosen))
    return [each[:: max(1, each.size // _NOTED)] for each in values]
