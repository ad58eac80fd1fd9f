"""Derivatives of a model's outputs with respect to its inputs, as physics-informed losses take them."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.runtime.tensorflow_functions import depends_on

__all__ = ["InputDerivatives"]

_STEPS = 4
"""Steps in which derivatives are looked for."""
_MOST = 16
"""Derivatives of a step that are followed: each is looked for in the graph of all later ones."""


class InputDerivatives:
    """Follows the derivatives that a loop computes with tapes, and derivatives of these, within a step.

    In eager code a derivative is known for one of a derivative only if it is taken of that very tensor.
    """

    def __init__(self) -> None:
        self._inputs: list[Any] = []  # of the model's calls
        self._derivatives: list[tuple[Any, int]] = []  # of the step, with their orders
        self._steps = 0
        self._any = False  # of order 2 or more

    @property
    def follows(self) -> bool:
        """Whether derivatives are still followed."""
        return self._any or self._steps < _STEPS

    def called(self, inputs: Any) -> None:
        """Note what the model is called with."""
        self._inputs.extend(value for value in keras.tree.flatten(inputs) if keras.ops.is_tensor(value))

    def computed(self, target: Any, sources: Any, results: Any) -> list[Any]:
        """Note gradients that a tape has computed, and return those that are derivatives of order 2 or more."""
        if len(self._derivatives) >= _MOST:
            return []
        sources = [source for source in keras.tree.flatten(sources) if not hasattr(source, "handle")]
        if not any(_depends(given, source) for source in sources for given in self._inputs):
            return []
        order = 1 + max((order for each, order in self._derivatives if _depends(target, each)), default=0)
        found = [each for each in keras.tree.flatten(results) if keras.ops.is_tensor(each)]
        self._derivatives.extend((each, order) for each in found)
        self._any = self._any or order > 1
        return found if order > 1 else []

    def end_step(self) -> None:
        """Begin with the next step."""
        self._steps += 1
        self._inputs.clear()
        self._derivatives.clear()


def _depends(result: Any, source: Any) -> bool:
    return result is source or bool(depends_on(result, [source]))
