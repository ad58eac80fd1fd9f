"""One task of ``repair``: hands a faulty training to ``fit`` and its rivals, and trains its known fix."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import autotrainer
from autotrainer import RepairPlan, Result
from benchmarks.cases.case import Case, Program
from benchmarks.cases.scoring import score
from benchmarks.cases.work import relative_cost
from benchmarks.data.datasets import Arrays, load, split
from benchmarks.detect.run import builder
from benchmarks.execution.pool import Row, Task, worker
from benchmarks.execution.runs import case_of
from benchmarks.repair.rivals import Trained, longer, random_search
from benchmarks.repair.search import LOG_UNIFORM, UNIFORM

__all__ = ["METHODS", "run"]

VALIDATION = 0.2

METHODS = ("fit", "random uniform", "random log-uniform", "twice as long")
"""What repairs: ours, and what stands beside it; ``random …``: random search, with rates drawn in that way."""


def run(task: Task) -> Row:
    """Repair one case by each method and budget.

    The training rows are split into four fifths for training and one for validation, for the training as given, the
    repairs and the known fix alike; nobody sees the test rows before the end.

    Args:
        task: ``framework``, ``source``, ``case``, ``seed``, ``budgets`` and ``methods``, of `METHODS`.

    Returns:
        ``given``, ``fixed``: test scores; ``fix_cost``: work of the fix in trainings as given; ``methods``: one entry
        for each method and budget with ``repaired`` (test score), ``cost``, ``cost_to_win`` (work up to the end of the
        winning attempt, or None), ``plan`` (what won, or None), ``attempts``, ``seconds`` of the method, and of ``fit``
        also ``status``, ``stopped_by``, ``findings``; or ``error``.
    """
    case = case_of(task)
    assert case.fixed is not None
    seed, budgets = int(task["seed"]), [float(budget) for budget in task["budgets"]]
    build = builder(task["framework"])
    data, held = _parts(load(case.given, seed), seed)
    shape = data.x_train.shape[1:]

    def train(program: Program) -> Trained:
        return _train(build, program, data, held, seed)

    def cost(program: Program) -> float:
        return relative_cost(program, case.given, shape)

    baseline = train(case.given)
    drawn = zlib.crc32(f"{case.id} {seed}".encode())
    entries: list[Row] = []
    for method in task["methods"]:
        started = time.perf_counter()
        if method == "fit":
            entries += [_fitted(build, case, data, held, seed, budget) for budget in budgets]
            continue
        if method == "twice as long":
            found = longer(method, case.given, baseline, budgets, train, cost)
        else:
            space = LOG_UNIFORM if method.endswith("log-uniform") else UNIFORM
            found = random_search(method, case.given, baseline, space, budgets, train, cost, drawn)
        entries += [{**entry, "seconds": round(time.perf_counter() - started, 1)} for entry in found]
    fixed = _train(build, case.fixed, *_parts(load(case.fixed, seed), seed), seed)
    return {"given": baseline.test, "fixed": fixed.test, "fix_cost": cost(case.fixed), "methods": entries}


def _train(build: Any, program: Program, data: Arrays, held: tuple[Any, Any], seed: int) -> Trained:
    """Train a program; the values of each epoch's end are those of the validation rows."""
    kept: list[Any] = []
    seen = Arrays(data.x_train, data.y_train, *held)
    build.train(program, seen, seed, _keeping(kept))

    def scored(x: Any, y: Any) -> float:
        return score(program, build.predict(kept[0], build.to_inputs(program, x)), y)

    return Trained(scored(*held), scored(data.x_test, data.y_test))


def _fitted(build: Any, case: Case, data: Arrays, held: tuple[Any, Any], seed: int, budget: float) -> Row:
    started = time.perf_counter()
    entry: Row = {"method": "fit", "budget": budget}
    try:
        result = autotrainer.fit(
            **build.fit_arguments(case.given, (data.x_train, data.y_train), held, seed),
            epochs=case.given.epochs,
            batch_size=case.given.batch_size,
            budget=budget,
            seed=seed,
            progress=False,
        )
        outputs = build.predict(result.model, build.to_inputs(case.given, data.x_test))
        return {
            **entry,
            "repaired": score(case.given, outputs, data.y_test),
            "cost": result.cost,
            "cost_to_win": _cost_to_win(result),
            "status": result.status,
            "stopped_by": result.stopped_by,
            "plan": None if result.plan is None else _changes(result.plan),
            "attempts": [[_changes(a.plan), a.score, a.error, round(a.cost, 3)] for a in result.attempts],
            "findings": [f"{f.severity} {f.problem}" for f in result.findings],
            "seconds": round(time.perf_counter() - started, 1),
        }
    except Exception as error:  # noqa: BLE001  # the rivals' rows are worth having where ours fails
        return {**entry, "error": f"{type(error).__name__}: {error}"[:300]}


def _parts(data: Arrays, seed: int) -> tuple[Arrays, tuple[Any, Any]]:
    """Return the data with a fifth of the training rows taken out, and that fifth."""
    kept, held = split(data.x_train, data.y_train, VALIDATION, seed)
    rest = Arrays(data.x_train[kept], data.y_train[kept], data.x_test, data.y_test)
    return rest, (data.x_train[held], data.y_train[held])


def _changes(plan: RepairPlan) -> str:
    """Return what a plan changes, in one line: its numbered lines without the code."""
    return "; ".join(line.split(". ", 1)[-1] for line in str(plan).splitlines() if line[:1].isdigit())


def _cost_to_win(result: Result) -> float | None:
    """Return the work up to the end of the winning attempt, or None if none won."""
    if result.plan is None:
        return None
    whole = (i for i, attempt in enumerate(result.attempts) if attempt.epochs is None and not attempt.verdict)
    last = next((i for i in whole if result.attempts[i].plan == result.plan), None)
    return None if last is None else result.cost - sum(attempt.cost for attempt in result.attempts[last + 1 :])


class _Unwatched:
    """Stands where a monitor would."""

    def end_epoch(self, **values: float) -> None:
        """Take no notice."""


def _keeping(kept: list[Any]) -> Callable[..., Any]:
    """Return what stands where ``watch`` would, and keeps the model that it is given."""

    @contextlib.contextmanager
    def watch(model: Any, *_: object, **__: object) -> Iterator[_Unwatched]:
        kept.append(model)
        yield _Unwatched()

    return watch


if __name__ == "__main__":
    worker(run)
