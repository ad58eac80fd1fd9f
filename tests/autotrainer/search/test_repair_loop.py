"""What the repair loop records of attempts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from autotrainer.records.findings import Finding, Severity
from autotrainer.search.repair_loop import RepairLoop
from autotrainer.training.budget import Budget


def test_places_of_attempts_do_not_depend_on_the_process() -> None:
    """A monitor in another process may not see the user's files: places come from the original training."""
    first = Finding("dying_relu", "AT101", Severity.ERROR, 0.9, "it died", ("a", "b"), place="train.py:7")
    findings = (first, replace(first, layers=("c",), place="train.py:9"), replace(first, problem="not_learning"))
    loop = RepairLoop(None, Budget(3.0), "pytorch", 5)
    loop.baseline = SimpleNamespace(findings=(first,))  # type: ignore[assignment]
    for attempt in (findings, tuple(replace(finding, place="") for finding in findings)):
        trial: Any = SimpleNamespace(findings=attempt)
        assert [finding.place for finding in loop._located(trial)] == ["train.py:7", "", ""]
