"""Alternatives to ``fit`` in ``repair``: random search and training twice as long, at the same budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.cases.case import Program
from benchmarks.execution.pool import Row
from benchmarks.repair.search_space import SPACE, Space, draw_program

__all__ = ["Scores", "longer", "random_search"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a finished training.

    Attributes:
        validation: Score on the validation rows, by which attempts are chosen.
        test: Score on the test rows, which no choice uses.
    """

    validation: float
    test: float


Train = Callable[[Program], Scores]
Cost = Callable[[Program], float]


@dataclass(slots=True)
class _Ledger:
    """Spending of one budget, and the best attempt within it."""

    budget: float
    best: Scores
    spent: float = 1.0  # the original training
    program: Program | None = None
    cost_to_win: float | None = None
    attempts: list[list[Any]] = field(default_factory=list)

    def covers(self, cost: float) -> bool:
        return self.spent + cost <= self.budget + 1e-9

    def record(self, program: Program, cost: float, scores: Scores | None, error: str | None) -> None:
        self.spent += cost
        self.attempts.append([_summary(program), scores and scores.validation, error, round(cost, 3)])
        if scores is not None and scores.validation > _or_lowest(self.best.validation):
            self.best, self.program, self.cost_to_win = scores, program, self.spent

    def entry(self, method: str) -> Row:
        return {
            "method": method,
            "budget": self.budget,
            "repaired": self.best.test,
            "cost": self.spent,
            "cost_to_win": self.cost_to_win,
            "plan": None if self.program is None else _summary(self.program),
            "attempts": self.attempts,
        }


def random_search(
    method: str,
    original: Program,
    baseline: Scores,
    space: Space,
    budgets: Sequence[float],
    train: Train,
    cost: Cost,
    seed: int,
) -> list[Row]:
    """Draw trainings until the budget is spent and keep the best on the validation rows.

    All budgets share the same draws, so that each gets the result of a separate search with that budget.

    Args:
        method: Name for the entries.
        original: The original training.
        baseline: Its scores; it costs 1 and stays the best until an attempt beats it.
        space: Search space.
        budgets: Work, in original trainings.
        train: Trains a program; if it raises, the work counts all the same.
        cost: Work of a program, in original trainings.
        seed: Seed of the draws.

    Returns:
        One entry per budget.
    """
    draw = np.random.default_rng(seed)
    ledgers = [_Ledger(budget, baseline) for budget in budgets]
    least = cost(replace(original, epochs=max(1, round(original.epochs * min(SPACE["epochs"])))))
    while any(ledger.covers(least) for ledger in ledgers):
        program = draw_program(original, space, draw)
        _try(program, cost(program), ledgers, train)
    return [ledger.entry(method) for ledger in ledgers]


def longer(
    method: str, original: Program, baseline: Scores, budgets: Sequence[float], train: Train, cost: Cost
) -> list[Row]:
    """Train twice as long, where the budget allows it on top of the original training; see `random_search`."""
    ledgers = [_Ledger(budget, baseline) for budget in budgets]
    program = replace(original, epochs=2 * original.epochs)
    _try(program, cost(program), ledgers, train)
    return [ledger.entry(method) for ledger in ledgers]


def _try(program: Program, cost: float, ledgers: Iterable[_Ledger], train: Train) -> None:
    affordable = [ledger for ledger in ledgers if ledger.covers(cost)]
    if not affordable:
        return
    scores, error = None, None
    try:
        scores = train(program)
    except Exception as raised:  # noqa: BLE001  # the framework may reject a draw: an attempt without a score
        error = f"{type(raised).__name__}: {raised}"[:200]
    for ledger in affordable:
        ledger.record(program, cost, scores, error)


def _or_lowest(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _summary(program: Program) -> str:
    """Return the settings of a training in one line."""
    layers = [layer for layer in program.layers if layer["type"] in ("dense", "conv1d", "conv2d", "activation")]
    activations = [layer.get("activation") or layer.get("fn") for layer in layers]
    inits = [layer["init"] for layer in layers if layer.get("init")]
    return (
        f"{program.optimizer['name']}, rate {program.optimizer['lr']:.2g}, {program.loss}, batches of "
        f"{program.batch_size}, {program.epochs} epochs, {next(filter(None, activations), 'no activation')} … "
        f"{activations[-1] if activations else None}" + (f", {inits[0]}" if inits else "")
    )
