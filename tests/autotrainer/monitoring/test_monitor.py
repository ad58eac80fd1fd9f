"""The monitor: records observations, suppresses failures, and reports findings."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from autotrainer.errors import ConfigError, DataError, InputError
from autotrainer.monitoring.logs.log_reader import ContextRecord, StepRecord, read_log
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.run_state import read_state
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule


class LossAbove(Rule):
    """Reports a loss above 1; an error above 10."""

    problem = "loss_above"
    code = "AT980"
    needs = frozenset({"loss"})
    checks: ClassVar[list[int]] = []

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        self.checks.append(history.step)
        losses = history.scalar("loss")
        if not losses.size or losses[-1] <= 1:
            return None
        severity = Severity.ERROR if losses[-1] > 10 else Severity.WARNING
        return self.finding(severity, 1.0, f"The loss is {losses[-1]:g}.", {"loss": losses[-1]})


def monitor(**options: Any) -> Monitor:
    LossAbove.checks.clear()
    made = Monitor([LossAbove()], Sampler(), **options)
    made.begin(TaskContext(layers=(LayerInfo("a"), LayerInfo("b"))))
    return made


def observation(step: int, loss: float = 0.5, **values: Any) -> Observation:
    return Observation(step, np.full((2, len(LAYER_COLUMNS)), np.nan), loss, **values)


class Attached:
    """An observer with values at the end of an epoch."""

    def __init__(self, epoch_result: Mapping[str, float] | Exception) -> None:
        self.epoch_result, self.closed, self.logged = epoch_result, 0, []  # type: ignore[var-annotated]

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        self.logged.append((loss, outputs, targets))
        if loss == "bad":
            raise ZeroDivisionError

    def epoch_values(self) -> Mapping[str, float]:
        if isinstance(self.epoch_result, Exception):
            raise self.epoch_result
        return self.epoch_result

    def close(self) -> None:
        self.closed += 1


def test_observations_are_added_to_history() -> None:
    watched = monitor()
    for step in range(3):
        watched.record(observation(step, step, losses=[(step, 0.0)] if step else ()))
    assert watched.history.steps.tolist() == [0, 1, 2]
    assert watched.history.scalar("loss").tolist() == [0, 1, 2]
    watched.advance(7)
    watched.advance(5)
    assert watched.history.step == 7


def test_layers_can_change_until_the_first_record() -> None:
    watched = monitor()
    watched.begin(TaskContext(layers=(LayerInfo("b"), LayerInfo("a"))))
    watched.record(observation(0))
    watched.begin(TaskContext(layers=(LayerInfo("c"),)))
    assert [info.name for info in watched.history.layers] == ["b", "a"]


def test_findings_are_up_to_date() -> None:
    watched = monitor()
    for step in range(200):
        watched.record(observation(step, 0.5))
    assert len(LossAbove.checks) < 60
    watched.record(observation(200, 5.0))
    assert [f.problem for f in watched.findings] == ["loss_above"]
    assert not watched.should_stop
    watched.record(observation(201, 50.0))
    assert watched.should_stop
    watched.record(observation(202, 0.5))
    assert [f.severity for f in watched.findings] == [Severity.INFO]


def test_nonfinite_loss_is_checked_immediately() -> None:
    reported: list[Finding] = []
    watched = monitor(on_finding=reported.append)
    for step in range(100):
        watched.record(observation(step))
    watched.record(observation(101, float("inf")))
    assert [f.step for f in reported] == [101]


def test_user_values_override_observed_epoch_values() -> None:
    watched = monitor()
    watched.attach(Attached({"val_loss": 1.0, "other": 2.0}))
    watched.record(observation(4))
    watched.end_epoch(val_loss=3)
    watched.end_epoch()
    assert watched.history.epochs("val_loss")[1].tolist() == [3.0, 1.0]
    assert watched.history.epochs("other")[1].tolist() == [2.0, 2.0]
    assert watched.history.epoch == 2


@pytest.mark.parametrize("value", [None, "0.5", True, [1, 2], object(), 10**400, np.ones(2), 1j])
def test_end_epoch_rejects_values_that_are_not_numbers(value: Any) -> None:
    with pytest.raises(InputError, match=r"end_epoch\(val_loss="):
        monitor().end_epoch(val_loss=value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.array(2.0), np.array([2.0])])
def test_end_epoch_accepts_every_type_of_number(value: Any) -> None:
    watched = monitor()
    watched.end_epoch(val_loss=value)
    assert watched.history.epochs("val_loss")[1].tolist() == [2.0]


def test_finding_at_epoch_end_belongs_to_that_epoch() -> None:
    watched = monitor()
    watched._schedule._next = 100
    watched.record(observation(0, 50.0))
    watched.end_epoch()
    assert [(f.step, f.epoch) for f in watched.findings] == [(0, 0)]
    watched.record(observation(1, 0.5))
    watched.end_epoch()
    watched.record(observation(2, 50.0))
    assert [(f.step, f.epoch) for f in watched.findings] == [(2, 2)]


def test_failed_parts_are_not_retried() -> None:
    calls = []

    def broken(finding: Finding) -> None:
        calls.append(finding)
        raise ZeroDivisionError

    watched = monitor(on_finding=broken)
    observer = Attached({})
    watched.attach(observer)
    for step in range(3):
        watched.log(loss="bad")
        watched.record(observation(step, (2.0, 0.5, 50.0)[step]))
        assert len(watched.findings) == 1
    assert len(calls) == 1
    assert len(observer.logged) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, DataError])
def test_failures_are_logged_once_and_never_raised(caplog: pytest.LogCaptureFixture, error: type[Exception]) -> None:
    def broken(finding: Finding) -> None:
        raise error

    watched = monitor(on_finding=broken)
    observer = Attached(ZeroDivisionError())
    watched.attach(observer)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        watched.end_epoch()
        watched.end_epoch()
        watched.log(loss="bad")
        watched.log(loss="bad")
        watched.record(observation(0, 50.0))
        watched.close()
    assert caplog.text.count("end_epoch() failed") == 1
    assert caplog.text.count("log() failed") == 1
    assert caplog.text.count("on_finding failed") == 1
    assert observer.closed == 1


def test_close_detaches_and_keeps_findings(capsys: pytest.CaptureFixture[str]) -> None:
    observer = Attached({})
    watched = monitor()

    def training() -> None:
        with watched:
            watched.attach(observer)
            watched.record(observation(0, 50.0))
            raise KeyError("the user's error")

    with pytest.raises(KeyError, match="error"):
        training()
    watched.close()
    assert observer.closed == 1
    assert watched.closed
    assert not watched.history.finished  # the training was interrupted
    assert [f.problem for f in watched.findings] == ["loss_above"]
    assert "1 error in this training run" in capsys.readouterr().err
    watched.end_epoch(val_loss=1.0)
    watched.log(loss=1.0)
    assert watched.history.epoch == 0


@pytest.mark.parametrize("options", [{"log_dir": 3}, {"on_finding": "print"}])
def test_options_of_wrong_type_are_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        monitor(**options)


def test_quiet_or_healthy_run_is_silent(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "autotrainer"):
        with monitor(quiet=True) as watched:
            watched.record(observation(0, 50.0))
        with monitor() as watched:
            watched.record(observation(0, 0.5))
    assert capsys.readouterr() == ("", "")
    assert not caplog.text


def test_run_log_contains_the_run(tmp_path: Path) -> None:
    with monitor(log_dir=tmp_path, quiet=True) as watched:
        watched.record(observation(0, 50.0, outputs=np.full((2, 3), 123.456), targets=np.zeros((2, 3))))
        watched.end_epoch(val_loss=0.25)
    assert watched.log_path is not None
    kinds = [type(record).__name__.removesuffix("Record") for record in read_log(watched.log_path)]
    assert kinds[:2] == ["Context", "Step"]
    assert {"Finding", "Epoch", "Check"} <= set(kinds)
    assert kinds.index("Epoch") < kinds.index("End")
    assert list(tmp_path.iterdir()) == [watched.log_path]


def test_a_held_log_is_written_once_released(tmp_path: Path) -> None:
    watched = monitor(log_dir=tmp_path, hold=True)
    watched.learn({"rank": 1.0})
    watched.record(observation(0, loss=20))
    assert not list(tmp_path.iterdir())
    assert watched.log_path is None
    watched.release()
    watched.record(observation(1, loss=20))
    watched.close()
    assert watched.log_path is not None
    records = list(read_log(watched.log_path))
    assert [record.step for record in records if isinstance(record, StepRecord)] == [0, 1]
    assert [record.context.asked for record in records if isinstance(record, ContextRecord)][-1] == {"rank": 1}


def test_a_process_that_follows_has_no_log_and_no_findings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    earlier = monitor()
    earlier.record(observation(0, loss=20))
    assert earlier.should_stop
    state = earlier.state_dict()
    shown: list[Finding] = []
    watched = Monitor([LossAbove()], Sampler(), log_dir=tmp_path, on_finding=shown.append, hold=True)
    watched.restore(read_state(state))
    watched.begin(TaskContext(layers=(LayerInfo("a"), LayerInfo("b"))))
    caplog.clear()
    watched.follow()
    watched.record(observation(1, loss=30))
    watched.record_losses([(2, float("inf"))])
    watched.close()
    assert (watched.findings, watched.should_stop, watched.log_path) == ([], False, None)
    assert (shown, caplog.messages, list(tmp_path.iterdir())) == ([], [], [])


def test_a_forked_child_keeps_nothing_that_is_held(tmp_path: Path) -> None:
    watched = monitor(log_dir=tmp_path, hold=True)
    watched.leave()
    watched.learn({"rank": 1.0})
    watched.release()
    watched.close()
    assert not list(tmp_path.iterdir())


def test_unwritable_run_log_is_reported_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "autotrainer"):
        watched = monitor(log_dir=tmp_path / "file")
        watched.record(observation(0, 0.5))
        watched.close()
    assert caplog.text.count("the run log failed") == 1
    assert watched.log_path is None
    assert watched.history.steps.tolist() == [0]


def test_needed_columns_follow_the_rules(tmp_path: Path) -> None:
    assert monitor().needs == {"loss"}
    with monitor(log_dir=tmp_path) as logged:  # another rule may read the log later
        assert logged.needs >= {"loss", "activation_std", "dead_units"}
    assert Monitor([], Sampler()).needs == logged.needs, "without rules, only the history is kept"


def test_an_earlier_error_in_a_notebook_does_not_make_an_abandoned_run_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    record_property("attacks", 1)
    monkeypatch.setattr(sys, "last_value", ValueError("of another cell"), raising=False)
    monitor = Monitor([], Sampler(), log_dir=tmp_path)
    (log,) = tmp_path.iterdir()
    del monitor
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [record["finished"] for record in records if record.get("type") == "end"] == [True]
