"""One task of ``repair``: repairs a faulty training by ``fit`` and its alternatives, and trains its known fix."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import autotrainer
from autotrainer import RepairPlan, Result
from autotrainer.search.experience import variant
from benchmarks.cases.case import Case, Program
from benchmarks.cases.scoring import score
from benchmarks.cases.work import relative_cost
from benchmarks.data.datasets import Arrays, load, split
from benchmarks.detect.run import builder
from benchmarks.execution.pool import Row, Task, worker
from benchmarks.execution.runs import case_of
from benchmarks.repair.alternatives import SAMPLERS, Report, Scores, longer, optuna_search, random_search
from benchmarks.repair.search_space import LOG_UNIFORM, UNIFORM

__all__ = ["METHODS", "UNTIL", "run"]

VALIDATION_SHARE = 0.2

OnEpoch = Callable[[int], None]
"""Called at the end of each epoch, with the epoch."""

METHODS = ("fit", "random uniform", "random log-uniform", *SAMPLERS, "twice as long", "fit until budget")
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
        for ``fit`` also ``status``, ``stopped_by``, ``findings``, ``baseline`` (validation score of the original) and
        ``tried`` (see `_tried`); or ``error``.
    """
    case = case_of(task)
    assert case.fixed is not None
    seed, budgets = int(task["seed"]), [float(budget) for budget in task["budgets"]]
    build = builder(task["framework"])
    data, validation = _parts(load(case.original, seed), seed)
    shape = data.x_train.shape[1:]

    def train(program: Program, report: Report | None) -> Scores:
        return _train(build, program, data, validation, seed, report)

    def cost(program: Program) -> float:
        return relative_cost(program, case.original, shape)

    baseline = train(case.original, None)
    search_seed = zlib.crc32(f"{case.id} {seed}".encode())
    entries: list[Row] = []
    for method in task["methods"]:
        started = time.perf_counter()
        if method in UNTIL:
            entries += [_fitted(build, case, data, validation, seed, budget, method) for budget in budgets]
            continue
        if method == "twice as long":
            results = longer(method, case.original, baseline, budgets, train, cost)
        elif method in SAMPLERS:
            results = optuna_search(method, case.original, baseline, budgets, train, cost, search_seed)
        else:
            space = LOG_UNIFORM if method.endswith("log-uniform") else UNIFORM
            results = random_search(method, case.original, baseline, space, budgets, train, cost, search_seed)
        entries += [{**entry, "seconds": round(time.perf_counter() - started, 1)} for entry in results]
    fixed = _train(build, case.fixed, *_parts(load(case.fixed, seed), seed), seed)
    return {"given": baseline.test, "fixed": fixed.test, "fix_cost": cost(case.fixed), "methods": entries}


def _train(
    build: Any, program: Program, data: Arrays, validation: tuple[Any, Any], seed: int, report: Report | None = None
) -> Scores:
    """Train a program; values at the end of each epoch come from the validation rows.

    Args:
        build: Makes and trains programs.
        program: The program.
        data: Training and test rows.
        validation: Validation rows.
        seed: Seed of the training.
        report: Called with the score on the validation rows at the end of each epoch; it may raise.
    """
    models: list[Any] = []

    def scored(x: Any, y: Any) -> float:
        return score(program, build.predict(models[0], build.to_inputs(program, x)), y)

    arrays = Arrays(data.x_train, data.y_train, *validation)
    on_epoch = None if report is None else lambda epoch: report(epoch, scored(*validation))
    build.train(program, arrays, seed, _capture_model(models, on_epoch))
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
            "baseline": result.baseline_score,
            "tried": _tried(result, case.original),
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


def _tried(result: Result, original: Program) -> list[tuple[str, str, float | None]]:
    """Return problem, variant and validation score of each repair that was tried alone in a full training."""
    rate = float(original.optimizer["lr"])
    return [
        (attempt.plan.problems[0], variant(attempt.plan.repairs[0], attempt.plan.edits, rate), attempt.score)
        for attempt in result.attempts
        if len(attempt.plan.repairs) == 1 == len(attempt.plan.problems)
        and attempt.epochs is None
        and not attempt.verdict
    ]


def _cost_to_win(result: Result) -> float | None:
    """Return the work up to the end of the winning attempt, or None if none won."""
    if result.plan is None:
        return None
    whole = (i for i, attempt in enumerate(result.attempts) if attempt.epochs is None and not attempt.verdict)
    last = next((i for i in whole if result.attempts[i].plan == result.plan), None)
    return None if last is None else result.cost - sum(attempt.cost for attempt in result.attempts[last + 1 :])


class _Epochs:
    """Stands in for a monitor: counts the epochs that the loop ends."""

    def __init__(self, on_epoch: OnEpoch | None) -> None:
        self._on_epoch, self._epoch = on_epoch, 0

    def end_epoch(self, **values: float) -> None:
        """End an epoch."""
        if self._on_epoch is not None:
            self._on_epoch(self._epoch)
        self._epoch += 1

    def log(self, **values: object) -> None:
        """Take values of a step, which are not used."""


def _capture_model(models: list[Any], on_epoch: OnEpoch | None) -> Callable[..., Any]:
    """Return a stand-in for ``watch`` that appends the model to a list, and calls back at the end of each epoch."""

    @contextlib.contextmanager
    def watch(model: Any, *_: object, **__: object) -> Iterator[_Epochs]:
        models.append(model)
        epochs = _Epochs(on_epoch)
        if on_epoch is not None and hasattr(model, "fit"):
            _call_back(model, epochs)
        yield epochs

    return watch


def _call_back(model: Any, epochs: _Epochs) -> None:
    """Add a callback to the ``fit`` of a Keras model."""
    import keras

    fit = model.fit

    def with_callback(*args: Any, callbacks: Sequence[Any] = (), **options: Any) -> Any:
        own = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.end_epoch())
        return fit(*args, callbacks=[*callbacks, own], **options)

    model.fit = with_callback


if __name__ == "__main__":
    worker(run)
