"""Two models trained in turns, one to judge the outputs of the other, as in a GAN of `train_on_batch` calls."""

from __future__ import annotations

from typing import Any
from weakref import ref

__all__ = ["Opponents"]

_CALLS = 16
"""Calls of ``train_on_batch``, of any model, after which no further ones are considered."""


class Opponents:
    """Finds out whether a model is trained in turns with one that judges it, or that it judges.

    The judge is a part of the other model, which keeps it fixed: all that the judge trains is fixed there, and all that
    the other one trains is no part of the judge. Neither loss measures progress then. Models that both keep a part of
    the other one fixed, as in alternating least squares, work together.

    Args:
        model: The watched model.
    """

    def __init__(self, model: Any) -> None:
        self._model = ref(model)
        self._calls = 0
        self._own: tuple[frozenset[int], frozenset[int]] | None = None  # weights: those that it trains, and all
        self._opposed = False  # since its latest step
        self.found = False
        """Whether there is such a model."""

    def trains(self, model: Any) -> None:
        """Note that a model is about to take a step."""
        own = self._model()
        if self.found or self._calls >= _CALLS or own is None:
            return
        self._calls += 1
        trained = frozenset(map(id, model.trainable_variables))
        weights = frozenset(map(id, model.variables))
        if model is own:
            self.found = self._opposed
            self._own = trained, weights
        elif self._own is not None:
            self._opposed |= _judges(*self._own, trained, weights) or _judges(trained, weights, *self._own)


def _judges(
    trained: frozenset[int], weights: frozenset[int], other_trained: frozenset[int], other_weights: frozenset[int]
) -> bool:
    """Return whether the first model is the judge of the other one."""
    inside = bool(trained) and trained <= other_weights and trained.isdisjoint(other_trained)
    return inside and bool(other_trained) and other_trained.isdisjoint(weights)
