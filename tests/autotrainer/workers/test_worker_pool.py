"""`fit(workers=N)`: the result is that of one process, whatever happens to the others."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.edits import Edit, SetMomentum
from autotrainer.errors import ConfigError
from autotrainer.records.task import TaskContext
from autotrainer.testing import FakeBackend
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Failure, Trial
from autotrainer.workers.worker_pool import WorkerPool

ROOT = Path(__file__).parents[3]


def _trial(spec: TrainingSpec, peak: int, cut_short: bool = False) -> Trial:
    return Trial(spec, None, None, (), TaskContext(), {}, 30, cut_short, peak=peak)


def test_trainings_of_a_rung_run_in_other_processes(story: Any) -> None:
    alone = story.fit()
    assert {attempt.epochs for attempt in alone["attempts"]} == {None, 1, 3}, "a halving with three rungs"
    assert any(attempt.error for attempt in alone["attempts"])
    before = len(story.processes)
    shared = story.fit(workers=2)
    assert shared == alone
    assert len(set(story.processes[before:])) in (2, 3), "this process, and one or both of the others"


def test_what_was_trained_for_a_rung_goes_on_with_the_next(story: Any) -> None:
    attempts = [attempt for attempt in story.fit(budget=6.5)["attempts"] if attempt.error is None]
    whole = [attempt for attempt in attempts if attempt.epochs is None]
    cost = {1: 1, 3: 2, None: 6}
    for attempt in (a for a in attempts if a not in whole[:2]):
        assert 9 * attempt.cost == pytest.approx(cost[attempt.epochs]), "only the epochs that are new"
    failed = 1
    begun = 1 + 2 + sum(attempt.epochs == 1 for attempt in attempts) + failed
    assert len(story.processes) == begun, "longer ones do not begin again"
    assert len(whole) == 2 + 2, "by evidence, and at the end of each halving"


@pytest.mark.parametrize("budget", [4.5, 7.0, 8.0])
def test_a_budget_means_the_same(story: Any, budget: float) -> None:
    alone = story.fit(budget=budget)
    assert alone["stopped_by"] == "budget"
    assert alone["cost"] <= budget
    assert story.fit(budget=budget, workers=3) == alone


def test_wall_time_is_a_budget_too(story: Any) -> None:
    shared = story.fit(budget=timedelta(hours=1), workers=2, forbid="add_momentum")
    assert (shared["status"], shared["stopped_by"]) == ("improved", "done")


def test_what_the_budget_would_have_cut_is_run_again(story: Any) -> None:
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
        ahead = WorkerPool(2, FakeBackend(), None)  # type: ignore[arg-type]
        future: Future[Any] = Future()
        future.set_result(trial)
        ahead._open.append(((spec, None), future))
        spent = budget.spent
        assert (ahead.take(spec, None, budget) is trial) == taken
        assert budget.spent - spent == (trial.work if taken else 0)
        budget.spend(120 - budget.spent)


def test_the_training_of_a_lost_process_is_repeated(story: Any, caplog: pytest.LogCaptureFixture) -> None:
    parent = os.getpid()

    def die(edits: tuple[Edit, ...], number: int) -> None:
        if os.getpid() != parent and SetMomentum(0.9) in edits:
            os._exit(3)

    alone = story.fit(die, budget=6.0)
    assert story.fit(die, budget=6.0, workers=2) == alone
    assert "a worker process was lost" in caplog.text


class _OnlyHere:
    """Can be sent to another process, but not be received there."""

    def __init__(self) -> None:
        self.parent = os.getpid()

    def __call__(self, edits: tuple[Edit, ...], number: int) -> None:
        return None

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise OSError("no such device here")


def test_what_another_process_cannot_set_up_runs_in_this_one(story: Any, caplog: pytest.LogCaptureFixture) -> None:
    alone = story.fit(_OnlyHere())
    assert story.fit(_OnlyHere(), workers=2) == alone
    assert "no other process can run trainings" in caplog.text
    assert "OSError: no such device here" in caplog.text


def test_what_cannot_be_sent_is_named(story: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"model can't be sent to another process \(TypeError: .*lock.*workers=1"):
        story.fit(lambda edits, number: lock, workers=2)
    with pytest.raises(ConfigError, match="metric can't be sent"):
        story.fit(workers=2, metric=lambda y, p: float(lock.locked()))
    assert story.processes == [], "said before any training"


def test_a_pool_that_breaks_ends_nothing(
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
def test_a_missing_library_is_named(
    story: Any, monkeypatch: pytest.MonkeyPatch, workers: Any, missing: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=re.escape(says)):
        story.fit(workers=workers)


def test_processes_end_with_their_parent(run_python: Callable[..., Any]) -> None:
    code = """
import os
from joblib.externals.loky import ProcessPoolExecutor
import autotrainer
from autotrainer.workers.worker_pool import _begin_child
arguments = (os.getpid(), "pool", b"", b"")
pool = ProcessPoolExecutor(1, initializer=_begin_child, initargs=arguments)
print(pool.submit(os.getppid).result() == os.getpid(), flush=True)
os._exit(9)
"""
    done = run_python(code)  # returns once every process that can write to its output has ended
    assert (done.returncode, done.stdout.strip()) == (9, "True"), done.stderr


@pytest.mark.slow
def test_a_ray_cluster_comes_to_the_same_result(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert len(set(story.processes[before:])) > 1, "this process and others"
    finally:
        ray.shutdown()
