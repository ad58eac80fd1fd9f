"""Following a run log: what was read is not read again, and each way in which a run can end is told apart."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

import autotrainer
from autotrainer import registry
from autotrainer.records import json_lines
from autotrainer.rule import Rule
from autotrainer.view.followed_run import SILENT_AFTER, FollowedRun
from tests.autotrainer.view.recording import Recording


def _followed(path: Path, **options: Any) -> FollowedRun:
    return FollowedRun(path, "run", registry.make_rules, **options)


def _read(run: FollowedRun) -> FollowedRun:
    while not run.read(time.perf_counter() + 10):
        pass
    return run


def _later() -> float:
    return time.time() + SILENT_AFTER + 1


def test_log_that_grows_is_read_from_where_it_was_read_to(recording: Recording, monkeypatch: Any) -> None:
    parsed: list[bytes] = []
    parse = json_lines._parse
    monkeypatch.setattr(json_lines, "_parse", lambda text: parsed.append(text) or parse(text))  # type: ignore[func-returns-value]
    run = _read(_followed(recording.path))
    assert (run.state, run.run.history.step, len(parsed)) == ("running", -1, 2)
    for expected in range(3):
        recording.step()
        _read(run)
        assert (run.run.history.step, len(parsed)) == (expected, 3 + expected)
    version = run.version
    _read(run)
    assert (run.version, len(parsed)) == (version, 5)
    recording.end()
    assert _read(run).state == "finished"
    assert run.version > version
    assert len(parsed) == len(recording.path.read_bytes().splitlines())


def test_incomplete_line_is_read_once_it_is_complete(recording: Recording) -> None:
    recording.step()
    recording.step()
    whole = recording.path.read_bytes()
    recording.path.write_bytes(whole[:-20])
    run = _read(_followed(recording.path))
    assert (run.run.history.step, run.state) == (0, "running")
    with recording.path.open("ab") as file:
        file.write(whole[-20:])
    assert _read(run).run.history.step == 1


@pytest.mark.parametrize(
    ("end", "clock", "state", "hint"),
    [
        (lambda r: None, time.time, "running", ""),
        (lambda r: None, _later, "silent", "may have crashed"),
        (lambda r: r.cut(), time.time, "running", ""),
        (lambda r: r.cut(), _later, "silent", "breaks off within a line"),
        (lambda r: r.end(finished=False), _later, "interrupted", "exception or a signal"),
        (lambda r: r.end(), _later, "finished", ""),
    ],
)
def test_state(recording: Recording, end: Any, clock: Any, state: str, hint: str) -> None:
    recording.step()
    end(recording)
    run = _read(_followed(recording.path, clock=clock))
    assert run.state == state
    assert hint in run.state_hint
    assert bool(hint) == bool(run.state_hint)
    assert run.report.run["steps"] == 1


def test_log_without_a_complete_line_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "run-1.jsonl"
    run = _read(_followed(path))
    assert run.state == "waiting"
    path.write_bytes(b'{"autotrainer_log"')
    assert _read(run).state == "waiting"


def test_damaged_log_keeps_what_comes_before_and_says_why(recording: Recording) -> None:
    recording.step()
    run = _read(_followed(recording.path))
    recording.step()
    content = recording.path.read_bytes()
    recording.path.write_bytes(content[:-30] + b"x" + content[-29:])
    _read(run)
    assert run.state == "unreadable"
    assert "line 4 is damaged" in run.state_hint
    assert run.run.history.step == 0
    recording.step()
    _read(run)
    assert "line 4 is damaged" in run.state_hint
    assert run.run.history.step == 0


def test_log_that_becomes_readable_is_read(recording: Recording, monkeypatch: Any) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    recording.step()
    with monkeypatch.context() as refused:
        refused.setattr(json_lines, "open_regular", refuse)
        run = _read(_followed(recording.path))
        assert run.state == "unreadable"
        assert "Permission denied" in run.state_hint
    recording.step()
    assert _read(run).run.history.step == 1


def test_log_that_is_replaced_is_read_anew(recording: Recording, tmp_path: Path) -> None:
    for _ in range(3):
        recording.step()
    run = _read(_followed(recording.path))
    other = Recording(tmp_path / "other", layer="conv")
    other.step()
    os.replace(other.path, recording.path)
    _read(run)
    assert (run.state, run.run.history.step) == ("running", 0)
    assert run.run.history.layers[0].name == "conv0"


def test_large_log_is_read_in_parts(recording: Recording) -> None:
    for _ in range(20):
        recording.step()
    run = _followed(recording.path)
    assert not run.read(time.perf_counter())
    assert run.state == "reading"
    assert 0 < run.share_read < 1
    assert _read(run).run.history.step == 19


def _diverging(recording: Recording) -> None:
    for step in range(24):
        recording.step(1.0 if step < 16 else math.inf)
        if step in (15, 20):
            recording.check()


def test_findings_are_those_of_replay(recording: Recording) -> None:
    _diverging(recording)
    recording.end()
    expected = autotrainer.replay(recording.path).findings
    assert expected
    assert _read(_followed(recording.path)).report.findings == expected


def test_rules_are_evaluated_where_the_run_did_and_once_if_it_falls_silent(recording: Recording) -> None:
    steps: list[int] = []

    class Spy(Rule):
        problem, code, needs = "spy", "AT999", frozenset({"loss"})

        def check(self, history: Any, context: Any) -> None:
            steps.append(history.step)

    now = [time.time()]
    run = FollowedRun(recording.path, "run", lambda: [Spy()], clock=lambda: now[0])
    _diverging(recording)
    for _ in range(3):
        _read(run)
        _ = run.report
    assert steps == [15, 20]
    now[0] = _later()
    for _ in range(3):
        _read(run)
        _ = run.report
    assert steps == [15, 20, 23]
