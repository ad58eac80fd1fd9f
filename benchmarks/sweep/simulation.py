"""Sweeps over trials that have been trained to their end: exact, because a random search draws the same ones anyway."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from benchmarks.execution.pool import Row
from benchmarks.sweep.trials import SICK, best_score, progress_of

__all__ = ["METHODS", "RIVALS", "Sweep", "sweep"]

_PRUNERS: Mapping[str, Callable[[int], Any]] = {
    "": lambda epochs: optuna.pruners.NopPruner(),
    "median": lambda epochs: optuna.pruners.MedianPruner(),
    "Hyperband": lambda epochs: optuna.pruners.HyperbandPruner(1, epochs),
}

METHODS: Mapping[str, tuple[str, str]] = {
    " + ".join(filter(None, names)) or "no pruning": names
    for pruner in _PRUNERS
    for names in ((pruner, ""), (pruner, "ours"), (pruner, "oracle"))
}
"""For each method the pruner of Optuna, and what stops trials beside it.

``oracle`` knows before a trial begins whether it ends sick. Nobody can; it bounds what stopping sick trials saves.
"""

RIVALS = ("median", "Hyperband")
"""The methods that need neither."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The outcome of one sweep.

    Attributes:
        work: Work of the whole sweep, in full trainings.
        until_best: Work until a trial has ended with the best score of all trials; infinite if none does.
        score: Best score of a trial that ran to its end.
    """

    work: float
    until_best: float
    score: float


def sweep(row: Row, method: str, order: int) -> Sweep:
    """Run the trials of a space one after the other.

    Args:
        row: ``trivial`` and ``trials`` with ``values`` and ``stopped``, as `benchmarks.sweep.run` gives them.
        method: One of `METHODS`.
        order: Seed of their order.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner, stopper = METHODS[method]
    trials, ways = row["trials"], progress_of(row)
    epochs = len(trials[0]["values"])
    study = optuna.create_study(
        study_name=f"sweep {order}",  # from which Hyperband draws its brackets
        direction="maximize",
        pruner=_PRUNERS[pruner](epochs),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    best = best_score(trials)
    done, until_best, score = 0, math.inf, -math.inf
    for index in np.random.default_rng(order).permutation(len(trials)):
        values = trials[index]["values"]
        stop = {"": None, "ours": trials[index]["stopped"], "oracle": 0 if ways[index] <= SICK else None}[stopper]
        trial, pruned = study.ask(), stop == 0
        for epoch, value in enumerate(values if not pruned else (), start=1):
            done += 1
            trial.report(value, epoch)
            pruned = epoch < epochs and (stop == epoch or trial.should_prune())
            if pruned:
                break
        state = optuna.trial.TrialState.PRUNED if pruned else None
        if not pruned and math.isnan(values[-1]):
            state = optuna.trial.TrialState.FAIL
        study.tell(trial, None if state is not None else values[-1], state=state)
        if state is None:
            score = max(score, values[-1])
            if values[-1] >= best:
                until_best = min(until_best, done / epochs)
    return Sweep(done / epochs, until_best, score)
