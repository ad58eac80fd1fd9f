"""One task of ``repair``: hands a faulty training to ``fit`` and trains its known fix. Run by `benchmarks.pool`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import autotrainer
from autotrainer import RepairPlan, Result
from benchmarks.datasets import Arrays, load, split
from benchmarks.detect_run import builder
from benchmarks.pool import Row, Task, worker
from benchmarks.runs import case_of
from benchmarks.scoring import score
from benchmarks.work import relative_cost

__all__ = ["run"]

VALIDATION = 0.2


def run(task: Task) -> Row:
    """Repair one case.

    The training rows are split into four fifths for training and one for validation, for the training as given, the
    repairs and the known fix alike; nobody sees the test rows before the end.

    Returns:
        ``given``, ``repaired``, ``fixed``: test scores; ``fix_cost`` and ``cost``: work in trainings as given;
        ``cost_to_win``: work up to the end of the winning attempt, or None; ``status``, ``stopped_by``, ``plan``,
        ``attempts``, ``findings``, ``seconds``.
    """
    case = case_of(task)
    assert case.fixed is not None
    seed, shown = int(task["seed"]), {}
    build = builder(task["framework"])
    for name, program in (("given", case.given), ("fixed", case.fixed)):
        shown[name], _ = build.train(program, _parts(load(program, seed), seed)[0], seed, _unwatched)
    data = load(case.given, seed)
    own, (x_held, y_held) = _parts(data, seed)
    started = time.perf_counter()
    result = autotrainer.fit(
        **build.fit_arguments(case.given, (own.x_train, own.y_train), (x_held, y_held), seed),
        epochs=case.given.epochs,
        batch_size=case.given.batch_size,
        budget=task["budget"],
        seed=seed,
        progress=False,
    )
    seconds = time.perf_counter() - started
    outputs = build.predict(result.model, build.to_inputs(case.given, data.x_test))
    return {
        **shown,
        "repaired": score(case.given, outputs, data.y_test),
        "fix_cost": relative_cost(case.fixed, case.given, data.x_train.shape[1:]),
        "cost": result.cost,
        "cost_to_win": _cost_to_win(result),
        "status": result.status,
        "stopped_by": result.stopped_by,
        "plan": None if result.plan is None else _changes(result.plan),
        "attempts": [[_changes(a.plan), a.score, a.error, round(a.cost, 3)] for a in result.attempts],
        "findings": [f"{f.severity} {f.problem}" for f in result.findings],
        "seconds": round(seconds, 1),
    }


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
    last = next((i for i, attempt in enumerate(result.attempts) if attempt.plan == result.plan), None)
    return None if last is None else result.cost - sum(attempt.cost for attempt in result.attempts[last + 1 :])


class _Unwatched:
    """Stands where a monitor would."""

    def end_epoch(self, **values: float) -> None:
        """Take no notice."""


@contextlib.contextmanager
def _unwatched(*_: object, **__: object) -> Iterator[_Unwatched]:
    yield _Unwatched()


if __name__ == "__main__":
    worker(run)
