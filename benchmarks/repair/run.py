"""One task of ``repair``: repairs a faulty training by ``fit`` and its alternatives, and trains its known fix."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import autotrainer
from autotrainer import RepairPlan, Result
from benchmarks.cases.case import Case, Program
from benchmarks.cases.scoring import score
from benchmarks.cases.work import relative_cost
from benchmarks.data.datasets import Arrays, load, split
from benchmarks.detect.run import builder
from benchmarks.execution.pool import Row, Task, worker
from benchmarks.execution.runs import case_of
from benchmarks.repair.alternatives import Scores, longer, random_search
from benchmarks.repair.search_space import LOG_UNIFORM, UNIFORM

__all__ = ["METHODS", "UNTIL", "run"]

VALIDATION_SHARE = 0.2

METHODS = ("fit", "random uniform", "random log-uniform", "twice as long", "fit until budget")
"""Repair methods: ours and its alternatives. ``random …``: random search with learning rates drawn that way.
``fit until budget``: with ``until="budget"``, on request only."""
UNTIL: Mapping[str, Literal["healthy", "budget"]] = {"fit": "healthy", "fit until budget": "budget"}
"""The argument ``until`` of `autotrainer.fit`, by method."""


def run(task: Task) -> Row:
    """Repair one case with each method and budget.

    The training rows are split into four fifths for training and one for validation, alike for the original training,
    the repairs and the known fix; the test rows are used only for the final scores.

    Args:
        task: ``framework``, ``source``, ``case``, ``seed``, ``budgets`` and ``methods``, of `METHODS`.

    Returns:
        ``given``, ``fixed``: test scores; ``fix_cost``: work of the fix in original trainings; ``methods``: one entry
        for each method and budget with ``repaired`` (test score), ``cost``, ``cost_to_win`` (work up to the end of the
        winning attempt, or None), ``plan`` (the winning changes, or None), ``attempts``, ``seconds`` of the method, and
        for ``fit`` also ``status``, ``stopped_by``, ``findings``; or ``error``.
    """
    case = case_of(task)
    assert case.fixed is not None
    seed, budgets = int(task["seed"]), [float(budget) for budget in task["budgets"]]
    build = builder(task["framework"])
    data, validation = _parts(load(case.original, seed), seed)
    shape = data.x_train.shape[1:]

    def train(program: Program) -> Scores:
        return _train(build, program, data, validation, seed)

    def cost(program: Program) -> float:
        return relative_cost(program, case.original, shape)

    baseline = train(case.original)
    search_seed = zlib.crc32(f"{case.id} {seed}".encode())
    entries: list[Row] = []
    for method in task["methods"]:
        started = time.perf_counter()
        if method in UNTIL:
            entries += [_fitted(build, case, data, validation, seed, budget, method) for budget in budgets]
            continue
        if method == "twice as long":
            results = longer(method, case.original, baseline, budgets, train, cost)
        else:
            space = LOG_UNIFORM if method.endswith("log-uniform") else UNIFORM
            results = random_search(method, case.original, baseline, space, budgets, train, cost, search_seed)
        entries += [{**entry, "seconds": round(time.perf_counter() - started, 1)} for entry in results]
    fixed = _train(build, case.fixed, *_parts(load(case.fixed, seed), seed), seed)
    return {"given": baseline.test, "fixed": fixed.test, "fix_cost": cost(case.fixed), "methods": entries}


def _train(build: Any, program: Program, data: Arrays, validation: tuple[Any, Any], seed: int) -> Scores:
    """Train a program; values at the end of each epoch come from the validation rows."""
    models: list[Any] = []
    arrays = Arrays(data.x_train, data.y_train, *validation)
    build.train(program, arrays, seed, _capture_model(models))

    def scored(x: Any, y: Any) -> float:
        return score(program, build.predict(models[0], build.to_inputs(program, x)), y)

    return Scores(scored(*validation), scored(data.x_test, data.y_test))


def _fitted(
    build: Any, case: Case, data: Arrays, validation: tuple[Any, Any], seed: int, budget: float, method: str
) -> Row:
    started = time.perf_counter()
    entry: Row = {"method": method, "budget": budget}
    try:
        result = autotrainer.fit(
            **build.fit_arguments(case.original, (data.x_train, data.y_train), validation, seed),
            epochs=case.original.epochs,
            batch_size=case.original.batch_size,
            budget=budget,
            until=UNTIL[method],
            seed=seed,
            progress=False,
        )
        outputs = build.predict(result.model, build.to_inputs(case.original, data.x_test))
        return {
            **entry,
            "repaired": score(case.original, outputs, data.y_test),
            "cost": result.cost,
            "cost_to_win": _cost_to_win(result),
            "status": result.status,
            "stopped_by": result.stopped_by,
            "plan": None if result.plan is None else _changes(result.plan),
            "attempts": [[_changes(a.plan), a.score, a.error, round(a.cost, 3)] for a in result.attempts],
            "findings": [f"{f.severity} {f.problem}" for f in result.findings],
            "seconds": round(time.perf_counter() - started, 1),
        }
    except Exception as error:  # noqa: BLE001  # the alternatives still count where fit fails
        return {**entry, "error": f"{type(error).__name__}: {error}"[:300]}


def _parts(data: Arrays, seed: int) -> tuple[Arrays, tuple[Any, Any]]:
    """Return the data without a fifth of the training rows, and that fifth."""
    training, validation = split(data.x_train, data.y_train, VALIDATION_SHARE, seed)
    remaining = Arrays(data.x_train[training], data.y_train[training], data.x_test, data.y_test)
    return remaining, (data.x_train[validation], data.y_train[validation])


def _changes(plan: RepairPlan) -> str:
    """Return the changes of a plan in one line: its numbered lines without the code."""
    return "; ".join(line.split(". ", 1)[-1] for line in str(plan).splitlines() if line[:1].isdigit())


def _cost_to_win(result: Result) -> float | None:
    """Return the work up to the end of the winning attempt, or None if none won."""
    if result.plan is None:
        return None
    whole = (i for i, attempt in enumerate(result.attempts) if attempt.epochs is None and not attempt.verdict)
    last = next((i for i in whole if result.attempts[i].plan == result.plan), None)
    return None if last is None else result.cost - sum(attempt.cost for attempt in result.attempts[last + 1 :])


class _NullMonitor:
    """Stands in for a monitor."""

    def end_epoch(self, **values: float) -> None:
        """Do nothing."""


def _capture_model(models: list[Any]) -> Callable[..., Any]:
    """Return a stand-in for ``watch`` that appends the model to a list."""

    @contextlib.contextmanager
    def watch(model: Any, *_: object, **__: object) -> Iterator[_NullMonitor]:
        models.append(model)
        yield _NullMonitor()

    return watch


if __name__ == "__main__":
    worker(run)
