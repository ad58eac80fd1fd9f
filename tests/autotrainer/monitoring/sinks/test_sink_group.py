"""Sinks that hang, fail, are flooded or slow: the training and other sinks get on as without them."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer.integrations.sinks.jsonl import JsonLinesSink
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.monitoring.sinks import sink_group
from autotrainer.monitoring.sinks.sink_group import MAX_ERRORS, MAX_SAMPLES, SinkGroup
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule
from autotrainer.sink import BufferSink, Sink

ROOT = Path(__file__).parents[4]
FINDING = Finding("always_error", "AT970", Severity.ERROR, 1.0, "Bad.", layers=("a",))


class AlwaysError(Rule):
    """Reports an error."""

    problem = "always_error"
    code = "AT970"
    needs = frozenset({"loss"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self.finding(Severity.ERROR, 1.0, "Bad.", {"loss": 1}, layers=("a",))


class Recorder:
    """Keeps all that it gets, and the threads that call it."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[Mapping[str, float]] = []
        self.findings: list[Finding] = []
        self.threads: set[str] = set()
        self.closed = 0

    def scalars(self, step: int, mapping: Mapping[str, float]) -> None:
        self.threads.add(threading.current_thread().name)
        self.steps.append(step)
        self.values.append(mapping)

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)

    def close(self) -> None:
        self.closed += 1


class Hanging(Recorder):
    """Waits in a method until it is released."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.reached, self.release = threading.Event(), threading.Event()
        setattr(self, method, self._wait)

    def _wait(self, *arguments: Any) -> None:
        self.reached.set()
        self.release.wait(60)


def failing(method: str, error: BaseException) -> Recorder:
    def fail(*arguments: Any) -> None:
        raise error

    sink = Recorder()
    setattr(sink, method, fail)
    return sink


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_group, "CLOSE_SECONDS", 0.2)


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name


def observation(step: int, layers: int = 1) -> Observation:
    return Observation(step, np.ones((layers, len(LAYER_COLUMNS))), 0.5)


def monitor_with(*sinks: Sink, rules: tuple[Rule, ...] = (AlwaysError(),)) -> Monitor:
    monitor = Monitor(rules, Sampler(), sinks={f"sink{i}": sink for i, sink in enumerate(sinks)})
    monitor.begin(TaskContext(layers=(LayerInfo("a"),)))
    return monitor


def train(monitor: Monitor, steps: int = 20) -> None:
    for step in range(steps):
        monitor.record(observation(step))
    monitor.end_epoch(val_loss=0.25)


def test_sink_gets_samples_epochs_and_findings_on_one_thread_of_its_own() -> None:
    sink, other = Recorder(), Recorder()
    with monitor_with(sink, other) as monitor:
        train(monitor)
    assert sink.steps == [*range(20), 19]
    assert sink.values[0]["autotrainer/loss"] == 0.5
    assert sink.values[0]["autotrainer/a/grad_norm"] == 1.0
    assert sink.values[-1] == {"autotrainer/epoch/val_loss": 0.25}
    assert {type(v) for values in sink.values for v in values.values()} == {float}
    assert [f.problem for f in sink.findings] == ["always_error"]
    assert sink.threads == {"autotrainer-sink0"}
    assert other.threads == {"autotrainer-sink1"}
    assert sink.closed == 1
    assert "sinks" not in monitor.report().run


def test_without_sinks_no_thread_starts_and_nothing_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("step", "epoch", "finding", "close"):
        monkeypatch.setattr(SinkGroup, method, lambda *arguments: pytest.fail("work without a sink"))
    before = threading.active_count()
    with monitor_with() as monitor:
        train(monitor)
        assert threading.active_count() == before
    assert monitor.findings


@pytest.mark.usefixtures("short_wait")
@pytest.mark.parametrize("method", ["scalars", "finding", "close"])
def test_sink_that_hangs_delays_nobody_and_is_reported_once(method: str, caplog: pytest.LogCaptureFixture) -> None:
    hanging, other = Hanging(method), Recorder()
    with caplog.at_level(logging.WARNING, "autotrainer"), monitor_with(hanging, other) as monitor:
        train(monitor)
        if method != "close":
            assert hanging.reached.wait(30)
    monitor.close()
    lines = [line for line in caplog.messages if "sink0" in line]
    hanging.release.set()
    assert other.steps == [*range(20), 19]
    assert len(other.findings) == 1
    assert len(lines) == 1
    assert "has not ended within 0.2 s" in lines[0]
    assert ("nothing lost" in lines[0]) == (method == "close")
    assert monitor.report().run["sinks"] == lines
    assert lines[0] in " ".join(str(monitor.report()).split())


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_sink_that_fails_is_switched_off_and_reported(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    sink, other = failing("scalars", error), Recorder()
    with caplog.at_level(logging.WARNING, "autotrainer"), monitor_with(sink, other) as monitor:
        train(monitor)
    lines = [line for line in caplog.messages if "sink0" in line]
    assert len(lines) == 2
    assert f"gets no more measurements, after {MAX_ERRORS} errors in a row" in lines[0]
    assert "did not get 21 samples" in lines[1]
    assert len(sink.findings) == len(other.findings) == 1
    assert other.steps == [*range(20), 19]
    assert sink.closed == 1


def test_sink_that_recovers_goes_on() -> None:
    sink = Recorder()
    record, calls = sink.scalars, iter(range(100))

    def sometimes(step: int, mapping: Mapping[str, float]) -> None:
        if next(calls) % MAX_ERRORS:
            raise OSError("the network is down")
        record(step, mapping)

    setattr(sink, "scalars", sometimes)  # noqa: B010 - mypy refuses an assignment to a method
    with monitor_with(sink) as monitor:
        train(monitor, 8)
    assert sink.steps == [0, 3, 6]
    (note,) = monitor.report().run["sinks"]
    assert "did not get 6 samples" in note
    assert "the network is down" in note


def test_sink_that_can_not_be_closed_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autotrainer"), monitor_with(failing("close", OSError("full"))) as monitor:
        train(monitor)
    assert [line for line in caplog.messages if "sink0 could not be closed" in line and "full" in line]


def test_flood_keeps_the_latest_samples_and_all_findings() -> None:
    sink = Hanging("close")
    blocked = threading.Event()
    record = sink.scalars

    def first_waits(step: int, mapping: Mapping[str, float]) -> None:
        blocked.wait(60)
        record(step, mapping)

    setattr(sink, "scalars", first_waits)  # noqa: B010
    sink.release.set()
    group = SinkGroup({"slow": sink})
    for step in range(5000):
        group.epoch(step, {"val_loss": 1.0})
    for _ in range(50):
        group.finding(FINDING)
    blocked.set()
    (note,) = group.close()
    assert sink.steps[-MAX_SAMPLES:] == list(range(5000 - MAX_SAMPLES, 5000))
    assert len(sink.steps) <= MAX_SAMPLES + 1
    assert len(sink.findings) == 50
    assert "it is slower than the training" in note


def test_sink_that_takes_processor_time_pauses_until_the_training_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr(sink_group, "thread_time", lambda: float(next(seconds)))  # each call takes a second
    sink, first = Recorder(), threading.Event()
    record = sink.scalars

    def note(step: int, mapping: Mapping[str, float]) -> None:
        record(step, mapping)
        first.set()

    setattr(sink, "scalars", note)  # noqa: B010
    group = SinkGroup({"costly": sink})
    for step in range(5):
        group.epoch(step, {"val_loss": 1.0})
    assert first.wait(30)
    time.sleep(0.05)
    assert sink.steps == [0]  # those that follow wait for 30 seconds, or for the end
    assert group.close() == ()
    assert sink.steps == [0, 1, 2, 3, 4]


def test_exception_in_the_training_goes_through_and_sinks_get_all() -> None:
    sink = Recorder()
    monitor = monitor_with(sink)

    def fail() -> None:
        with monitor:
            train(monitor)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert sink.steps == [*range(20), 19]
    assert sink.closed == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals for threads on this system")
def test_interrupt_while_waiting_for_a_sink_reaches_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_group, "CLOSE_SECONDS", 30.0)
    hanging = Hanging("close")
    monitor = monitor_with(hanging)
    train(monitor)

    def interrupt() -> None:
        hanging.reached.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process ignores it
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            monitor.close()
    finally:
        signal.signal(signal.SIGINT, handler)
    hanging.release.set()
    thread.join()
    assert monitor.closed
    assert monitor.findings


def test_buffer_is_filled_at_once_on_the_thread_of_the_training() -> None:
    buffer = BufferSink(size=5)
    with monitor_with(buffer) as monitor:
        monitor.record(observation(0))
        assert [step for step, _ in buffer.take_scalars()] == [0]
        assert buffer.take_scalars() == []
        train(monitor)
    assert [step for step, _ in buffer.take_scalars()] == [16, 17, 18, 19, 19]
    assert [f.problem for f in buffer.take_findings()] == ["always_error"]


def test_monitor_that_is_only_dropped_closes_its_sinks() -> None:
    sink = Recorder()
    monitor = monitor_with(sink)
    train(monitor)
    del monitor
    gc.collect()
    assert sink.closed == 1
    assert sink.steps == [*range(20), 19]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_passes_on_and_closes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    sink, hanging = JsonLinesSink(path), Hanging("scalars")
    monitor = monitor_with(sink, hanging)
    monitor.record(observation(0))
    assert hanging.reached.wait(30)
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        status = 1
        try:
            monitor.record(observation(1))
            monitor.end_epoch(val_loss=0.5)
            monitor.close()
            del monitor, sink
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(process, 0)
    hanging.release.set()
    monitor.close()
    lines = path.read_text().splitlines()
    assert status == 0
    kinds = [json.loads(line)["type"] for line in lines]
    assert (kinds[0], kinds[-1]) == ("run", "end")
    assert sorted(kinds[1:-1]) == ["finding", "scalars"]


SCRIPT = """
import atexit, runpy, sys, threading
runpy.run_path("conftest.py")
sys.path.insert(0, ".")
import numpy as np
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.monitoring.sinks import sink_group
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import TaskContext

open_ = [True]  # a tracker that closes its run at the end of the process
atexit.register(open_.clear)

class Sink:
    def scalars(self, step, mapping):
        print("scalars", step, bool(open_), flush=True)
    def finding(self, finding):
        pass
    def close(self):
        print("close", bool(open_), flush=True)

class Hanging(Sink):
    def scalars(self, step, mapping):
        threading.Event().wait()

sink_group.CLOSE_SECONDS = 0.5
monitor = Monitor([], Sampler(), sinks={"plain": Sink(), "hanging": Hanging()})
monitor.begin(TaskContext(layers=(LayerInfo("a"),)))
monitor.record(Observation(0, np.ones((1, len(LAYER_COLUMNS))), 0.5))
END
"""


@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), [("", 0), ("sys.exit(3)", 3), ("1 / 0", 1)])
def test_interpreter_that_ends_closes_sinks_before_trackers_and_waits_for_none_that_hangs(
    end: str, status: int
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("END", end)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert ran.stdout.splitlines() == ["scalars 0 True", "close True"], ran.stderr
    assert ran.returncode == status, ran.stderr


def test_sink_may_drop_the_last_monitor_from_its_thread() -> None:
    held: list[Monitor] = []

    class Dropping(Recorder):
        def scalars(self, step: int, mapping: Mapping[str, float]) -> None:
            super().scalars(step, mapping)
            held.clear()

    sink = Dropping()
    held.append(monitor_with(sink))
    held[0].record(observation(0))
    for thread in threading.enumerate():
        if thread.name == "autotrainer-sink0":
            thread.join(30)
    assert sink.steps == [0]
    assert sink.closed == 1
