"""The terms of the loss, side by side, and the first of them that is not finite."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats

__all__ = ["Terms", "first_nonfinite", "has_objective", "quoted"]

_SIGNED = 0.1
"""Share of the samples with a value below zero from which a term is an objective, not an error."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms at the sampled steps in which all of them are finite: names, steps, and values (samples, terms).

    Terms that are known at less than half as many steps as others don't count: those of the first step have other names
    if the user's loop reports its terms from the second one on.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    values: Floats

    @classmethod
    def of(cls, history: RunHistory) -> Terms:
        """Return the terms of a run; without any sample if they were never known together."""
        known = {name: history.term(name) for name in history.term_names}
        most = max((len(steps) for steps, _ in known.values()), default=0)
        names = tuple(name for name, (steps, _) in known.items() if 2 * len(steps) >= most)
        series = [known[name] for name in names]
        steps = series[0][0] if series else np.zeros(0, np.int64)
        for other, _ in series[1:]:
            steps = np.intersect1d(steps, other)
        columns = [values[np.searchsorted(where, steps)] for where, values in series]
        table = np.stack(columns, axis=1) if columns else np.zeros((0, 0))
        finite = np.isfinite(table).all(axis=1)
        return cls(names, steps[finite] if len(columns) else steps, table[finite])


def has_objective(values: Floats) -> bool:
    """Return whether one of the terms is often below zero, as the objective of a policy, or a likelihood.

    Such a term has no lower bound, and may be near zero by chance: its size says nothing of its gradient, and the loss
    is no measure of success.

    Args:
        values: Values of terms, shape (samples, terms).
    """
    return bool(values.size and (values < 0).mean(axis=0).max() > _SIGNED)


def first_nonfinite(history: RunHistory) -> tuple[int, list[str]] | None:
    """Return the first sampled step in which some terms of the loss are not finite while others are, and their names.

    None if there is no such step, or none of them is known to be the first.
    """
    series = {name: history.term(name) for name in history.term_names}
    steps = [int(step) for where, values in series.values() for step in where[np.isinf(values)][:1]]
    if not steps:
        return None
    first = min(steps)
    at_first = {name: values[where == first][:1] for name, (where, values) in series.items()}
    bad = [name for name, value in at_first.items() if np.isinf(value).any()]
    return (first, bad) if any(np.isfinite(value).any() for value in at_first.values()) else None


def quoted(names: list[str]) -> str:
    """Return the first names in quotation marks, as part of a sentence."""
    return " and ".join(f"“{name}”" for name in names[:3])
