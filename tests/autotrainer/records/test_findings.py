from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.records.findings import Finding, Severity, rank_findings


def _finding(problem: str, severity: str = "error", confidence: float = 0.5, caused_by: str | None = None) -> Finding:
    return Finding(problem, "AT999", Severity(severity), confidence, "m", caused_by=caused_by)


@pytest.mark.parametrize(
    ("findings", "order"),
    [
        ([_finding("a", "info"), _finding("b", "warning"), _finding("c")], ["c", "b", "a"]),
        ([_finding("a", confidence=0.4), _finding("b", confidence=0.9)], ["b", "a"]),
        ([_finding("a", caused_by="b"), _finding("b", "warning")], ["b", "a"]),
        (
            [_finding("a", caused_by="b"), _finding("b", "warning", caused_by="c"), _finding("c", "info")],
            ["c", "b", "a"],
        ),
        ([_finding("a", caused_by="missing")], ["a"]),
        ([_finding("a", caused_by="b"), _finding("b", caused_by="a")], ["b", "a"]),
    ],
)
def test_ranking_order(findings: list[Finding], order: list[str]) -> None:
    assert [f.problem for f in rank_findings(findings)] == order


PROBLEMS = st.sampled_from("abcdef")


@given(
    st.lists(
        st.tuples(PROBLEMS, st.sampled_from(list(Severity)), st.floats(0, 1), st.none() | PROBLEMS),
        unique_by=lambda v: v[0],
    )
)
def test_ranking_keeps_every_finding_once(values: list[tuple[str, Severity, float, str | None]]) -> None:
    findings = [_finding(p, s, c, caused) for p, s, c, caused in values]
    assert sorted(f.problem for f in rank_findings(findings)) == sorted(f.problem for f in findings)


def test_json_round_trip() -> None:
    evidence = {"ratio": 1e-5, "norm": math.inf}
    finding = Finding("p", "AT1", Severity.ERROR, 0.75, "m", ("l",), 3, 1, evidence, ("r",), "q")
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict(), allow_nan=False))) == finding


def test_str_shows_code_problem_severity_and_message() -> None:
    assert str(_finding("a")) == "AT999 a [error]: m"
