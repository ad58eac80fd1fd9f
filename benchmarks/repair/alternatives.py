"""Alternatives to ``fit`` in ``repair`` at the same budget: random search, Optuna, and training twice as long."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.cases.case import Program
from benchmarks.execution.pool import Row
from benchmarks.repair.search_space import RATES, SPACE, Space, draw_program, output_pairs, with_settings

__all__ = ["SAMPLERS", "Scores", "longer", "optuna_search", "random_search"]

SAMPLERS = ("TPE + Hyperband", "CMA-ES + Hyperband")
"""Methods of `optuna_search`."""

_MAX_SKIPPED = 20
"""Consecutive draws that no budget covers after which a search ends: a sampler may insist on the longest training."""
_PRUNED = "pruned"
"""Why a pruned training has no scores."""


class _PruningError(Exception):
    """Raised by ``report`` in `optuna_search`: the training is to end."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a finished training.

    Attributes:
        validation: Score on the validation rows, by which attempts are chosen.
        test: Score on the test rows, which no choice uses.
    """

    validation: float
    test: float


Report = Callable[[int, float], None]
"""Called at the end of each epoch with (epoch, validation score)."""
Train = Callable[[Program, Report | None], Scores]
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
        train: Trains a program, with a report of its epochs or None; if it raises, the work counts all the same.
        cost: Work of a program, in original trainings.
        seed: Seed of the draws.

    Returns:
        One entry per budget.
    """
    draw = np.random.default_rng(seed)
    ledgers = [_Ledger(budget, baseline) for budget in budgets]
    least = _least_cost(original, cost)
    while any(ledger.covers(least) for ledger in ledgers):
        program = draw_program(original, space, draw)
        _try(program, cost(program), ledgers, train)
    return [ledger.entry(method) for ledger in ledgers]


def optuna_search(
    method: str,
    original: Program,
    baseline: Scores,
    budgets: Sequence[float],
    train: Train,
    cost: Cost,
    seed: int,
) -> list[Row]:
    """Search the space of `random_search` with a sampler of Optuna, and end trainings early by Hyperband.

    Hyperband is that of Li et al. (JMLR 2018) as Optuna implements it, over epochs. What a training has cost until it
    is pruned counts; its evaluations on the validation rows do not. A rate is drawn uniformly in its logarithm. The
    rest is as in `random_search`.

    Args:
        method: One of `SAMPLERS`.
        original: The original training.
        baseline: Its scores.
        budgets: Work, in original trainings.
        train: Trains a program, with a report of its epochs or None; if it raises, the work counts all the same.
        cost: Work of a program, in original trainings.
        seed: Seed of the sampler.

    Returns:
        One entry per budget.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    choices = {**SPACE, "output": range(len(output_pairs(original)))}
    sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed)
    if method.startswith("CMA-ES"):
        random = optuna.samplers.RandomSampler(seed=seed)
        sampler = optuna.samplers.CmaEsSampler(seed=seed, independent_sampler=random, warn_independent_sampling=False)
    longest = max(1, round(original.epochs * max(SPACE["epochs"])))
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=longest)
    # Hyperband assigns trials to brackets by the name of the study
    study = optuna.create_study(study_name="repair", direction="maximize", sampler=sampler, pruner=pruner)
    ledgers = [_Ledger(budget, baseline) for budget in budgets]
    least = _least_cost(original, cost)
    skipped = 0
    while any(ledger.covers(least) for ledger in ledgers) and skipped < _MAX_SKIPPED:
        trial = study.ask()
        # Choices as integers: CMA-ES searches a space of numbers
        chosen = {name: trial.suggest_int(name, 0, len(options) - 1) for name, options in choices.items()}
        rate = trial.suggest_float("rate", *RATES, log=True)
        settings = {name: SPACE[name][chosen[name]] for name in SPACE}
        program = with_settings(original, settings, output_pairs(original)[chosen["output"]], rate)
        scores, error = _try(program, cost(program), ledgers, train, trial)
        pruned = error == _PRUNED
        skipped = 0 if pruned or scores is not None else skipped + 1
        if pruned or (scores is not None and math.isnan(scores.validation)):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif scores is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, scores.validation)
    return [ledger.entry(method) for ledger in ledgers]


def longer(
    method: str, original: Program, baseline: Scores, budgets: Sequence[float], train: Train, cost: Cost
) -> list[Row]:
    """Train twice as long, where the budget allows it on top of the original training; see `random_search`."""
    ledgers = [_Ledger(budget, baseline) for budget in budgets]
    program = replace(original, epochs=2 * original.epochs)
    _try(program, cost(program), ledgers, train)
    return [ledger.entry(method) for ledger in ledgers]


def _try(
    program: Program, cost: float, ledgers: Iterable[_Ledger], train: Train, trial: Any = None
) -> tuple[Scores | None, str | None]:
    """Train a program at the cost of the ledgers that cover it.

    Args:
        program: The program.
        cost: Its work, in original trainings.
        ledgers: Those that do not cover it are left as they are.
        train: Trains it.
        trial: The trial of Optuna that may prune it, or None.

    Returns:
        Its scores, or None; and why there are none, or None if no ledger covers it.
    """
    affordable = [ledger for ledger in ledgers if ledger.covers(cost)]
    if not affordable:
        return None, None
    epochs = 0

    def report(epoch: int, score: float) -> None:
        nonlocal epochs
        epochs = epoch + 1
        trial.report(score if math.isfinite(score) else -1e9, epoch)
        if epochs < program.epochs and trial.should_prune():
            raise _PruningError

    scores, error, share = None, None, 1.0
    try:
        scores = train(program, None if trial is None else report)
    except _PruningError:
        error, share = _PRUNED, epochs / program.epochs
    except Exception as raised:  # noqa: BLE001  # the framework may reject a draw: an attempt without a score
        error = f"{type(raised).__name__}: {raised}"[:200]
    for ledger in affordable:
        ledger.record(program, share * cost, scores, error)
    return scores, error


def _least_cost(original: Program, cost: Cost) -> float:
    """Return the work of the shortest training in the space."""
    return cost(replace(original, epochs=max(1, round(original.epochs * min(SPACE["epochs"])))))


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
