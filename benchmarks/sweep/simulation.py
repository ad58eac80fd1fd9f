"""Sweeps over trials that have been trained to their end: exact, because a random search draws the same ones anyway."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from benchmarks.execution.pool import Row

__all__ = ["METHODS", "Sweep", "sweep"]

METHODS: Mapping[str, tuple[Callable[[int], Any], bool]] = {
    "no pruning": (lambda epochs: optuna.pruners.NopPruner(), False),
    "ours": (lambda epochs: optuna.pruners.NopPruner(), True),
    "median": (lambda epochs: optuna.pruners.MedianPruner(), False),
    "median + ours": (lambda epochs: optuna.pruners.MedianPruner(), True),
    "hyperband": (lambda epochs: optuna.pruners.HyperbandPruner(1, epochs), False),
    "hyperband + ours": (lambda epochs: optuna.pruners.HyperbandPruner(1, epochs), True),
}
"""For each method the pruner of Optuna, given the epochs of a trial, and whether proven trials stop."""


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


def sweep(trials: Sequence[Row], method: str, order: int) -> Sweep:
    """Run trials one after the other.

    Args:
        trials: Trials with ``values`` and ``stopped``, as `benchmarks.sweep.run` gives them.
        method: One of `METHODS`.
        order: Seed of their order.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    make, ours = METHODS[method]
    epochs = len(trials[0]["values"])
    study = optuna.create_study(
        study_name=f"sweep {order}",  # from which Hyperband draws its brackets
        direction="maximize",
        pruner=make(epochs),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    best = max((t["values"][-1] for t in trials if not math.isnan(t["values"][-1])), default=math.nan)
    done, until_best, score = 0, math.inf, -math.inf
    for index in np.random.default_rng(order).permutation(len(trials)):
        values, stopped = trials[index]["values"], trials[index]["stopped"]
        trial, pruned = study.ask(), False
        for epoch, value in enumerate(values, start=1):
            done += 1
            trial.report(value, epoch)
            pruned = epoch < epochs and ((ours and stopped == epoch) or trial.should_prune())
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
