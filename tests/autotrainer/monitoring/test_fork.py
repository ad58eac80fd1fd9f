"""A forked child process leaves log, summary and monitor to its parent."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotrainer
from autotrainer.monitoring.logs.run_log import RUN_LOG
from autotrainer.monitoring.monitor import Monitor, is_watched, watched_models
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.json_lines import read_lines
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


class AlwaysError(Rule):
    """Reports an error."""

    problem = "always_error"
    code = "AT970"
    needs = frozenset({"loss"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self.finding(Severity.ERROR, 1.0, "Bad.", {"loss": 1})


class Attached:
    """An observer that reports when it is closed, as those of frameworks do."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor, self.closed = monitor, 0

    def log(self, **values: Any) -> None:
        self.monitor.record(observation(99))

    def close(self) -> None:
        self.closed += 1
        self.monitor.record_losses([(98, 1.0)])
        self.monitor.end_epoch(val_loss=1.0)


def _records(path: Any) -> Iterator[dict[str, Any]]:
    return (line.record for line in read_lines(path, RUN_LOG))


def observation(step: int) -> Observation:
    return Observation(step, np.full((1, len(LAYER_COLUMNS)), np.nan), 0.5)


def watched(folder: Path, **options: Any) -> Monitor:
    monitor = Monitor([AlwaysError()], Sampler(), log_dir=folder, **options)
    monitor.begin(TaskContext(layers=(LayerInfo("a"),)))
    monitor.attach(Attached(monitor))
    monitor.record(observation(0))
    return monitor


def in_child(action: Callable[[], Any]) -> Any:
    """Return what an action returns in a forked child."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a child that hangs says where, and ends
        faulthandler.register(signal.SIGALRM, file=2, chain=True)
        signal.alarm(60)
        try:
            os.write(writer, json.dumps(action()).encode())
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            os.write(writer, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        result = json.loads(file.read() or b'"nothing"')
    os.waitpid(process, 0)
    return result


def _leave(monitor: Monitor, error: Exception | None) -> None:
    with suppress(ZeroDivisionError), monitor:
        if error is not None:
            raise error


def _grandchild(monitor: Monitor) -> None:
    in_child(lambda: _leave(monitor, None))


def _forget(monitor: Monitor) -> None:
    assert monitor.log_path is None
    gc.collect()


ACTIONS: dict[str, Callable[[Monitor], Any]] = {
    "records a step": lambda monitor: monitor.record(observation(1)),
    "records losses": lambda monitor: monitor.record_losses([(1, 0.5)]),
    "ends an epoch": lambda monitor: monitor.end_epoch(val_loss=0.5),
    "reports a loss": lambda monitor: monitor.log(loss=0.5),
    "adds facts": lambda monitor: monitor.learn({"duplicates": 1.0}),
    "begins again": lambda monitor: monitor.begin(TaskContext(layers=(LayerInfo("b"),))),
    "advances": lambda monitor: monitor.advance(7),
    "finishes": lambda monitor: monitor.finish(),
    "fails": lambda monitor: monitor.fail("a part", ValueError("x")),
    "reads the findings": lambda monitor: len(monitor.findings),
    "reads should_stop": lambda monitor: monitor.should_stop,
    "makes a report": lambda monitor: str(monitor.report()),
    "closes": lambda monitor: monitor.close(),
    "closes twice": lambda monitor: (monitor.close(), monitor.close()),
    "leaves the block": lambda monitor: _leave(monitor, None),
    "leaves the block with an error": lambda monitor: _leave(monitor, ZeroDivisionError()),
    "forks again": _grandchild,
    "collects garbage": _forget,
}


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("times", [1, 20])
def test_child_writes_and_prints_nothing(
    name: str, times: int, tmp_path: Path, capfd: pytest.CaptureFixture[str], record_property: Any
) -> None:
    record_property("attacks", 1)
    calls: list[Finding] = []
    monitor = watched(tmp_path, on_finding=calls.append)
    before = monitor.log_path.read_bytes()  # type: ignore[union-attr]
    capfd.readouterr()

    def act() -> list[Any]:
        for _ in range(times):
            ACTIONS[name](monitor)
        return [monitor.closed, monitor.log_path, len(calls)]

    if ACTIONS[name] is _forget:
        gc.collect()  # what earlier tests left may wait, when it is destroyed, for threads that a child does not have
    assert in_child(act) == [True, None, 1]
    assert monitor.log_path.read_bytes() == before  # type: ignore[union-attr]
    assert capfd.readouterr() == ("", "")
    with monitor:
        monitor.record(observation(1))
    records = list(_records(monitor.log_path))
    assert sum(record.get("type") == "end" for record in records) == 1
    assert autotrainer.replay(monitor.log_path).run["steps"] == 2  # type: ignore[arg-type]
    assert capfd.readouterr().err.count("1 error in this training run") == 1


def test_child_detaches_from_the_model(tmp_path: Path) -> None:
    monitor = watched(tmp_path)
    observer: Any = monitor.observer

    def act() -> list[Any]:
        monitor.close()
        return [observer.closed, monitor.observer is None, len(monitor.history.steps)]

    assert in_child(act) == [1, True, 1]
    assert observer.closed == 0
    monitor.close()


def test_child_samples_no_step(tmp_path: Path) -> None:
    monitor = watched(tmp_path)
    assert in_child(lambda: [monitor.sampler.due(step) for step in range(9)]) == [False] * 9
    assert monitor.sampler.due(3)
    monitor.close()


def test_child_can_watch_with_a_log_of_its_own(tmp_path: Path) -> None:
    class Model:
        pass

    model = Model()
    monitor = watched_models[model] = watched(tmp_path)

    def act() -> list[Any]:
        before = is_watched(model)
        own = watched(tmp_path)
        own.record(observation(1))
        own.close()
        return [before, str(own.log_path), len(own.history.steps)]

    open_before, path, steps = in_child(act)
    assert (open_before, steps, is_watched(model)) == (False, 2, True)
    assert Path(path) != monitor.log_path
    assert len(list(tmp_path.iterdir())) == 2
    for log in tmp_path.iterdir():
        assert next(_records(log))["autotrainer_log"]
    monitor.close()


def test_closed_monitor_is_left_alone(tmp_path: Path) -> None:
    monitor = watched(tmp_path)
    monitor.close()
    assert in_child(lambda: [monitor.closed, str(monitor.log_path)]) == [True, str(monitor.log_path)]


def test_logs_of_processes_that_train_at_the_same_time_are_valid(tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 8)
    monitor = watched(tmp_path)
    processes = []
    for _ in range(8):
        process = os.fork()
        if process == 0:
            try:
                for step in range(1, 100):
                    monitor.record(observation(step))
                    monitor.end_epoch(val_loss=1.0)
                monitor.close()
            finally:
                os._exit(0)
        processes.append(process)
        monitor.record(observation(len(processes)))
    for process in processes:
        os.waitpid(process, 0)
    monitor.close()
    assert monitor.log_path is not None
    steps = [record["step"] for record in _records(monitor.log_path) if record.get("type") == "step"]
    assert steps == list(range(9))


def test_fork_while_another_thread_writes(tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 20)
    monitor, stop = watched(tmp_path), threading.Event()

    def write() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            monitor.record_losses([(step, 0.5)])

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(20):
        process = os.fork()
        if process == 0:
            os._exit(0)
        os.waitpid(process, 0)
    stop.set()
    thread.join()
    monitor.close()
    assert monitor.log_path is not None
    assert sum(1 for _ in _records(monitor.log_path)) > 20
