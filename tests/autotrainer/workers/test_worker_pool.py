"""`fit(workers=N)`: the result equals that of one process, whatever happens to the workers."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.edits import Edit, SetMomentum
from autotrainer.errors import ConfigError
from autotrainer.records.task import TaskContext
from autotrainer.testing import FakeBackend
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Failure, Trial
from autotrainer.workers import worker_pool
from autotrainer.workers.ray_pool import _call
from autotrainer.workers.worker_pool import WorkerPool, _initialize

ROOT = Path(__file__).parents[3]


def _trial(spec: TrainingSpec, peak: int, cut_short: bool = False) -> Trial:
    return Trial(spec, None, None, (), TaskContext(), {}, 30, cut_short, peak=peak)


def test_rung_runs_in_other_processes(story: Any) -> None:
    alone = story.fit()
    repaired = [attempt for attempt in alone["attempts"] if attempt.verdict != "original"]
    assert {attempt.epochs for attempt in repaired} == {None, 1, 3}, "a halving with three rungs"
    assert any(attempt.error for attempt in alone["attempts"])
    before = len(story.processes)
    shared = story.fit(workers=2)
    assert shared == alone
    assert len(set(story.processes[before:])) in (2, 3), "this process, and one or both workers"


def test_trainings_continue_on_the_next_rung(story: Any) -> None:
    every = story.fit(budget=6.5)["attempts"]
    *attempts, last = [a for a in every if a.error is None and a.verdict != "original"]
    assert (last.epochs, 9 * last.cost < 6) == (None, True), "the budget ends it"
    whole = [attempt for attempt in attempts if attempt.epochs is None]
    cost = {1: 1, 3: 2, None: 6}
    for attempt in (a for a in attempts if a not in whole[:2]):
        assert 9 * attempt.cost == pytest.approx(cost[attempt.epochs]), "only the new epochs are charged"
    failed, original, by_evidence = 1, 2, 3
    begun = original + by_evidence + sum(attempt.epochs == 1 for attempt in attempts) + failed
    assert len(story.processes) == begun, "longer trainings do not start again"
    assert len(whole) == 2 + 2, "two by evidence, and one at the end of each halving"


@pytest.mark.parametrize("budget", [4.5, 7.0, 8.0])
def test_budget_is_the_same_with_workers(story: Any, budget: float) -> None:
    alone = story.fit(budget=budget)
    assert alone["stopped_by"] == "budget"
    assert alone["cost"] <= budget
    assert story.fit(budget=budget, workers=3) == alone


class _LastingPool:
    """Replaces `process_pool` by processes that serve several fits, since starting them takes most of the time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, workers: int, initializer: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        if self._pool is None:
            self._pool = ProcessPoolExecutor(workers)
        return self._Shared(self, arguments[1:])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(kill_workers=True)
            self._pool = None

    class _Shared:
        def __init__(self, pool: _LastingPool, arguments: tuple[Any, ...]) -> None:
            self._lasting, self._arguments, self._futures = pool, arguments, list[Any]()

        def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
            future = self._lasting._pool.submit(_call, _initialize, function, arguments, *self._arguments)
            self._futures.append(future)
            return future

        def shutdown(self, **_: Any) -> None:
            if any(future.done() and future.exception() for future in self._futures):
                self._lasting.close()  # a process was lost
            for future in self._futures:
                future.cancel()


@pytest.mark.parametrize("fits", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_many_fits_with_workers_equal_fits_without(
    story: Any, fits: int, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    """Budgets, metrics and seeds vary, trainings end in any order, and now and then a process is lost."""
    random, parent, pool = np.random.default_rng(0), os.getpid(), _LastingPool()
    monkeypatch.setattr(worker_pool, "process_pool", pool)
    taken = [0]
    take = WorkerPool.take

    def count_taken(self: WorkerPool, *arguments: Any) -> Any:
        outcome = take(self, *arguments)
        taken[0] += outcome is not None
        return outcome

    monkeypatch.setattr(WorkerPool, "take", count_taken)
    try:
        for number in range(fits):
            options: dict[str, Any] = {
                "budget": float(random.uniform(4, 9)),
                "metric": str(random.choice(["auto", "auc", "loss"])),
                "strategy": str(random.choice(["balance", "structure", "efficiency"])),
                "seed": int(random.integers(100)),
            }
            deadly = 0.1 if number % 12 == 2 else 0.0

            def delay(edits: tuple[Edit, ...], done: int, number: int = number, deadly: float = deadly) -> None:
                if os.getpid() != parent:
                    draw = np.random.default_rng([number, done, os.getpid()]).random()
                    if draw < deadly:
                        os._exit(3)
                    time.sleep(0.004 * draw)

            assert story.fit(delay, workers=2, **options) == story.fit(delay, **options), options
    finally:
        pool.close()
    record_property("attacks", fits)
    assert taken[0] > 2 * fits, "most trainings of the halving search come from other processes"


def test_wall_time_budget_with_workers(story: Any) -> None:
    shared = story.fit(budget=timedelta(hours=1), workers=2, forbid="add_momentum")
    assert (shared["status"], shared["stopped_by"]) == ("improved", "done")


def test_outcome_that_exceeds_the_budget_is_not_taken(story: Any) -> None:
    spec = TrainingSpec(9, 0, (SetMomentum(0.9),))
    budget = Budget(2.0)
    budget.measure(100)
    budget.spend(120)
    for trial, taken in (
        (_trial(spec, peak=80), True),
        (_trial(spec, peak=81), False),
        (_trial(spec, peak=10, cut_short=True), False),
        (Failure("ValueError: diverged", 30, 80), True),
        (Failure("ValueError: diverged", 30, 81), False),
    ):
        pool = WorkerPool(2, FakeBackend(), None)  # type: ignore[arg-type]
        future: Future[Any] = Future()
        future.set_result(trial)
        pool._futures[spec, None] = future
        spent = budget.spent
        assert (pool.take(spec, None, budget) is trial) == taken
        assert budget.spent - spent == (trial.work if taken else 0)
        budget.spend(120 - budget.spent)


def test_training_of_a_lost_process_is_run_again(story: Any, caplog: pytest.LogCaptureFixture) -> None:
    parent = os.getpid()

    def die(edits: tuple[Edit, ...], number: int) -> None:
        if os.getpid() != parent and SetMomentum(0.9) in edits:
            os._exit(3)

    alone = story.fit(die, budget=6.0)
    assert story.fit(die, budget=6.0, workers=2) == alone
    assert "a worker process was lost" in caplog.text


class _NotUnpicklable:
    """Can be pickled, but not unpickled."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def __call__(self, edits: tuple[Edit, ...], number: int) -> None:
        return None

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise OSError("no such device here")


def test_runs_in_this_process_if_workers_cannot_be_set_up(story: Any, caplog: pytest.LogCaptureFixture) -> None:
    alone = story.fit(_NotUnpicklable())
    assert story.fit(_NotUnpicklable(), workers=2) == alone
    assert "no other process can run trainings" in caplog.text
    assert "OSError: no such device here" in caplog.text


def test_unpicklable_argument_is_named(story: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"model can't be sent to another process \(TypeError: .*lock.*workers=1"):
        story.fit(lambda edits, number: lock, workers=2)
    with pytest.raises(ConfigError, match="metric can't be sent"):
        story.fit(workers=2, metric=lambda y, p: float(lock.locked()))
    assert story.processes == [], "raised before any training"


def test_broken_pool_does_not_end_the_fit(
    story: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def submit(self, *_: Any) -> Any:
            raise RuntimeError("can't start new thread")

        def shutdown(self, **_: Any) -> None:
            return None

    alone = story.fit(budget=8.0)
    monkeypatch.setattr(WorkerPool, "_start", lambda self: Broken())
    assert story.fit(budget=8.0, workers=2) == alone
    assert "a worker process was lost" in caplog.text


@pytest.mark.parametrize(
    ("workers", "missing", "says"),
    [
        (2, "joblib", "workers=2 needs joblib and cloudpickle: pip install 'autotrainer-monitor[parallel]'"),
        ("ray", "ray", "workers='ray' needs Ray: pip install 'autotrainer-monitor[ray]'"),
    ],
)
def test_missing_library_is_named(
    story: Any, monkeypatch: pytest.MonkeyPatch, workers: Any, missing: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=re.escape(says)):
        story.fit(workers=workers)


def test_workers_end_with_their_parent(run_python: Callable[..., Any]) -> None:
    code = """
import os
import autotrainer
from autotrainer.workers.worker_pool import _initialize_child, process_pool
pool = process_pool(1, _initialize_child, (os.getpid(), "pool", b"", b""))
print(pool.submit(os.getppid).result() == os.getpid(), flush=True)
os._exit(9)
"""
    done = run_python(code)  # returns once every process that can write to its output has ended
    assert (done.returncode, done.stdout.strip()) == (9, "True"), done.stderr


@pytest.mark.slow
def test_ray_cluster_gives_the_same_result(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    parent = os.getpid()

    def die(edits: tuple[Edit, ...], number: int) -> None:
        if os.getpid() != parent and SetMomentum(0.9) in edits:
            os._exit(3)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # a checkout need not be installed
    with pytest.raises(ConfigError, match="finds no Ray cluster: start one"):
        story.fit(workers="ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        alone = story.fit(die, budget=6.0)
        before = len(story.processes)
        assert story.fit(die, budget=6.0, workers="ray") == alone
        assert len(set(story.processes[before:])) > 1, "this process and workers"
    finally:
        ray.shutdown()
