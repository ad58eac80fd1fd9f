from __future__ import annotations

import logging
from typing import ClassVar

import pytest

from autotrainer.monitoring.engine import Engine
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule


class Scripted(Rule):
    """Reports the severities of its script, by step."""

    problem = "scripted"
    code = "AT990"
    needs = frozenset()
    script: ClassVar[dict[int, Severity]] = {1: Severity.WARNING, 2: Severity.ERROR, 5: Severity.ERROR}

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        severity = self.script.get(history.step)
        return None if severity is None else self.finding(severity, 0.9, f"seen at {history.step}.", {"step": 1})


class Consequence(Scripted):
    problem = "consequence"
    code = "AT991"
    causes = ("absent", "scripted")
    script: ClassVar[dict[int, Severity]] = {2: Severity.ERROR}


class Broken(Scripted):
    problem = "broken"
    code = "AT992"

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        raise ZeroDivisionError


def _at(step: int) -> RunHistory:
    history = RunHistory()
    history.step, history.epoch = step, step // 2
    return history


def _evaluate(engine: Engine, step: int) -> dict[str, Finding]:
    return {f.problem: f for f in engine.evaluate(_at(step), TaskContext())}


def test_episode_keeps_its_first_step() -> None:
    engine = Engine([Scripted()])
    assert _evaluate(engine, 0) == {}
    assert _evaluate(engine, 1)["scripted"].severity is Severity.WARNING
    finding = _evaluate(engine, 2)["scripted"]
    assert (finding.severity, finding.step, finding.epoch, finding.message) == (Severity.ERROR, 1, 0, "seen at 2.")


def test_resolved_episode_becomes_info_until_the_next_one() -> None:
    engine = Engine([Scripted()])
    _evaluate(engine, 2)
    resolved = _evaluate(engine, 3)["scripted"]
    assert resolved.severity is Severity.INFO
    assert resolved.message == "seen at 2. Resolved by step 3."
    again = _evaluate(engine, 5)["scripted"]
    assert (again.severity, again.step) == (Severity.ERROR, 5)


def test_root_cause_comes_first_and_is_named() -> None:
    engine = Engine([Consequence(), Scripted()])
    findings = engine.evaluate(_at(2), TaskContext())
    assert [(f.problem, f.caused_by) for f in findings] == [("scripted", None), ("consequence", "scripted")]


def test_on_finding_is_called_for_new_and_worse_findings() -> None:
    reported: list[tuple[str, Severity]] = []
    engine = Engine([Scripted()], lambda f: reported.append((f.problem, f.severity)))
    for step in (1, 1, 2, 2, 3, 5):
        engine.evaluate(_at(step), TaskContext())
    errors = [("scripted", Severity.ERROR)]
    assert reported == [("scripted", Severity.WARNING), *errors, *errors]


def test_failing_rule_is_reported_once_and_switched_off(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine([Broken(), Scripted()])
    with caplog.at_level(logging.WARNING, "autotrainer"):
        for step in (2, 2, 2):
            assert set(_evaluate(engine, step)) == {"scripted"}
    assert [r.getMessage() for r in caplog.records if "broken" in r.getMessage()] == [
        "rule broken failed and is switched off: ZeroDivisionError()"
    ]
    assert [r.problem for r in engine.rules] == ["scripted"]
