"""What notebooks show of reports, findings and plans: escaped, and readable on light and dark pages."""

from __future__ import annotations

from typing import Any

import pytest

import autotrainer
from autotrainer.edits import SetLearningRate
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.notebook.content import finding_lines
from autotrainer.reporting.outcome import AttemptRow, Outcome
from autotrainer.reporting.report import Report
from tests.autotrainer.reporting.notebook.fakes import checked

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\n&amp;"


def _finding(problem: str = "dying_relu", **fields: Any) -> Finding:
    values = {"code": "AT201", "severity": Severity.ERROR, "confidence": 0.9, "message": "it is bad"}
    return Finding(problem, **{**values, **fields})


OUTCOME = Outcome(
    status="repaired",
    stopped_by="done",
    metric="accuracy",
    score=0.9,
    baseline_score=0.5,
    test_score=0.88,
    baseline_test_score=0.5,
    cost=2.0,
    patch=f"learning rate: {HOSTILE}",
    changes=(),
    attempts=(AttemptRow(("scale_learning_rate",), 0.9, 1.0, None, (), True, None, 0, ""),),
    left_out={},
)


@pytest.mark.parametrize(
    ("shown", "parts"),
    [
        (_finding(), ["error AT201 dying_relu", "it is bad"]),
        (_finding(HOSTILE, message=HOSTILE, layers=(HOSTILE,), place=HOSTILE, repairs=(HOSTILE,)), ["&lt;script&gt;"]),
        (_finding(evidence={"share": 0.5, HOSTILE: float("nan")}), ["share = 0.5"]),
        (_finding(severity=Severity.INFO, repairs=("x",)), ["info AT201"]),
        (_finding(layers=tuple("abcdefgh")), ["layers: a, b, c, d, e, f, …"]),
        (Report(), ["no problem found"]),
        (Report((_finding(),), {"steps": 3}, {"loss": ((0.0, 2.0), (1.0, 1.0))}), ["1 error in 3 steps", "loss 2 → 1"]),
        (Report((_finding("a"), _finding("b", caused_by="a"))), ["causes b [error]"]),
        (Report((), {"notes": [HOSTILE], "framework": HOSTILE}, {"loss": ((0.0, 1.0), (1.0, 2.0))}), ["&lt;img"]),
        (Report((_finding(),), {}, {}, OUTCOME), ["repaired", "0.5 → 0.9", "Changes to make", "&lt;script&gt;"]),
        (
            autotrainer.RepairPlan(("scale_learning_rate",), (SetLearningRate(0.1),), ("not_learning",)),
            ["fixes not_learning", "0.1"],
        ),
    ],
)
def test_objects_are_shown_as_html(shown: Any, parts: list[str]) -> None:
    html = checked(shown._repr_html_())
    for part in parts:
        assert part in html


def test_running_cell_names_the_roots_that_are_present() -> None:
    findings = [_finding(name) for name in "abc"] + [
        _finding("d", caused_by="a"),
        _finding("e", severity=Severity.INFO),
    ]
    html = checked(finding_lines(findings, 2))
    assert "AT201 a" in html
    assert "causes d" in html
    assert "AT201 b" in html
    assert "1 more problem" in html
    assert "AT201 e" not in html
