"""What stands beside ``fit`` in ``repair``: random search and training twice as long, at the same budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.cases.case import Program
from benchmarks.execution.pool import Row
from benchmarks.repair.search import SPACE, Space, draw_program

__all__ = ["Trained", "longer", "random_search"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training.

    Attributes:
        validation: Score on the validation rows, by which attempts are chosen.
        test: Score on the test rows, which nobody chooses by.
    """

    validation: float
    test: float


Train = Callable[[Program], Trained]
Cost = Callable[[Program], float]


@dataclass(slots=True)
class _Purse:
    """One budget: what was spent of it, and the best that it bought."""

    budget: float
    best: Trained
    spent: float = 1.0  # the training as given
    program: Program | None = None
    cost_to_win: float | None = None
    attempts: list[list[Any]] = field(default_factory=list)

    def affords(self, cost: float) -> bool:
        return self.spent + cost <= self.budget + 1e-9

    def take(self, program: Program, cost: float, found: Trained | None, error: str | None) -> None:
        self.spent += cost
        self.attempts.append([_words(program), found and found.validation, error, round(cost, 3)])
        if found is not None and found.validation > _or_lowest(self.best.validation):
            self.best, self.program, self.cost_to_win = found, program, self.spent

    def entry(self, method: str) -> Row:
        return {
            "method": method,
            "budget": self.budget,
            "repaired": self.best.test,
            "cost": self.spent,
            "cost_to_win": self.cost_to_win,
            "plan": None if self.program is None else _words(self.program),
            "attempts": self.attempts,
        }


def random_search(
    method: str,
    given: Program,
    baseline: Trained,
    space: Space,
    budgets: Sequence[float],
    train: Train,
    cost: Cost,
    seed: int,
) -> list[Row]:
    """Draw trainings until the budget is spent and keep what is best on the validation rows.

    All budgets see the same draws, so that each of them gets what a search with it alone would find.

    Args:
        method: Name for the entries.
        given: The training as given.
        baseline: How it ended; it costs 1 and stays the best until something beats it.
        space: Where to search.
        budgets: Work, in trainings as given.
        train: Trains a program; may raise, which costs the attempt its work.
        cost: Work of a program, in trainings as given.
        seed: Seed of the draws.

    Returns:
        One entry a budget.
    """
    draw = np.random.default_rng(seed)
    purses = [_Purse(budget, baseline) for budget in budgets]
    least = cost(replace(given, epochs=max(1, round(given.epochs * min(SPACE["epochs"])))))
    while any(purse.affords(least) for purse in purses):
        program = draw_program(given, space, draw)
        _try(program, cost(program), purses, train)
    return [purse.entry(method) for purse in purses]


def longer(
    method: str, given: Program, baseline: Trained, budgets: Sequence[float], train: Train, cost: Cost
) -> list[Row]:
    """Train again, twice as long, where the budget allows it beside the training as given; see `random_search`."""
    purses = [_Purse(budget, baseline) for budget in budgets]
    program = replace(given, epochs=2 * given.epochs)
    _try(program, cost(program), purses, train)
    return [purse.entry(method) for purse in purses]


def _try(program: Program, cost: float, purses: Iterable[_Purse], train: Train) -> None:
    buyers = [purse for purse in purses if purse.affords(cost)]
    if not buyers:
        return
    found, error = None, None
    try:
        found = train(program)
    except Exception as raised:  # noqa: BLE001  # a draw may be what the framework refuses: an attempt without a score
        error = f"{type(raised).__name__}: {raised}"[:200]
    for purse in buyers:
        purse.take(program, cost, found, error)


def _or_lowest(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _words(program: Program) -> str:
    """Return the settings of a training in one line."""
    layers = [layer for layer in program.layers if layer["type"] in ("dense", "conv1d", "conv2d", "activation")]
    activations = [layer.get("activation") or layer.get("fn") for layer in layers]
    inits = [layer["init"] for layer in layers if layer.get("init")]
    return (
        f"{program.optimizer['name']}, rate {program.optimizer['lr']:.2g}, {program.loss}, batches of "
        f"{program.batch_size}, {program.epochs} epochs, {next(filter(None, activations), 'no activation')} … "
        f"{activations[-1] if activations else None}" + (f", {inits[0]}" if inits else "")
    )
