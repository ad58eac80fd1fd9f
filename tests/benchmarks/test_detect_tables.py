"""Verdicts and tables of ``detect``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.cases.case import load_cases
from benchmarks.detect.confidence import reliability
from benchmarks.detect.suite import judge, summarize, tasks
from benchmarks.detect.verdicts import case_count, judge_all, with_reference_monitors
from benchmarks.overhead.suite import median_ratio, total_ratio
from benchmarks.reporting.parity import agreement, parity


def finding(
    problem: str, severity: str = "error", seen: int = 5, confidence: float = 0.9, caused_by: str | None = None
) -> dict[str, Any]:
    return {
        "problem": problem,
        "severity": severity,
        "seen": seen,
        "confidence": confidence,
        "caused_by": caused_by,
    }


def entry(score: float, *findings: dict[str, Any], steps: int = 1000) -> dict[str, Any]:
    first = min((f["seen"] for f in findings if f["severity"] == "error"), default=None)
    entries = list(findings)
    return {
        "score": score,
        "steps": steps,
        "first_error": first,
        "raised": entries,
        "findings": entries,
        "complaints": [],
    }


def row(
    original: dict[str, Any], fixed: dict[str, Any], case: str = "so50306988", framework: str = "pytorch", seed: int = 0
) -> dict[str, Any]:
    task = {"framework": framework, "source": "real", "case": case, "seed": seed, "variants": ["given", "fixed"]}
    return {"task": task, "given": original, "fixed": fixed}


@pytest.mark.parametrize(
    ("findings", "named", "early"),
    [
        ((finding("slow_convergence"),), True, True),
        ((finding("nonfinite", seen=199), finding("slow_convergence")), True, True),
        (
            (finding("nonfinite", seen=300), finding("dying_relu", seen=400), finding("slow_convergence", seen=500)),
            False,
            False,
        ),
        ((finding("nonfinite", "info"), finding("slow_convergence", "warning")), True, False),
        ((), False, False),
    ],
)
def test_cause_and_delay_of_a_faulty_training(findings: tuple[dict[str, Any], ...], named: bool, early: bool) -> None:
    (faulty, healthy), left_out = judge(row(entry(0.46, *findings), entry(1.0)), "pytorch")
    assert faulty.faulty
    assert (faulty.named, faulty.early) == (named, early)
    assert healthy.case.endswith("+fix")
    assert not healthy.faulty
    assert not left_out


def test_trainings_without_a_visible_fault_are_left_out() -> None:
    verdicts, left_out = judge(row(entry(0.99), entry(1.0)), "pytorch")
    assert [v.faulty for v in verdicts] == [False]
    assert len(left_out) == 1
    verdicts, left_out = judge({"task": row(entry(0), entry(0))["task"], "error": "no end after 9 s"}, "pytorch")
    assert not verdicts
    assert "no end" in left_out[0]


def test_state_of_a_case_depends_on_all_seeds() -> None:
    rows = [
        row(entry(score, finding("slow_convergence")), entry(1.0), seed=seed)
        for seed, score in enumerate((0.4, 0.5, 0.98))
    ]
    verdicts, left_out = judge_all(rows, "pytorch")
    assert [(v.seed, v.faulty) for v in verdicts] == [(0, True), (0, False), (1, True), (1, False), (2, False)]
    assert "seed 2" in left_out[0]
    assert case_count([v for v in verdicts if v.faulty]) == 1
    rows = [row(entry(score), entry(1.0), seed=seed) for seed, score in enumerate((0.4, 0.99, 0.98))]
    assert not any(v.faulty for v in judge_all(rows, "pytorch")[0])


def test_trivial_monitors_are_compared() -> None:
    rows = [row(entry(0.46), entry(1.0)), row(entry(0.11), entry(0.98, finding("not_learning")), "so58609115")]
    ours, silent, loud = with_reference_monitors(judge_all(rows, "pytorch")[0]).values()
    assert [bool(v.errors) for v in ours] == [False, False, False, True]
    assert not any(v.errors or v.warnings or v.raised or v.named or v.early for v in silent)
    assert all(v.errors and v.raised and v.warnings and v.first_error == 0 for v in loud)
    assert all(v.early for v in loud if v.faulty)
    text = summarize(rows, "pytorch")
    assert text.count("| null monitor | 2 | 0/2") == text.count("| paranoid monitor | 2 | 2/2") == 1


def test_confidence_is_compared_with_accuracy() -> None:
    right = finding("slow_convergence", confidence=0.8)
    follows = finding("not_learning", confidence=0.8, caused_by="slow_convergence")
    wrong = finding("overfitting", "warning", confidence=0.6)
    passed = finding("dying_relu", "info", confidence=0.99)
    verdicts, _ = judge(row(entry(0.46, right, follows, passed), entry(1.0, wrong)), "pytorch")

    lines = reliability(verdicts).splitlines()[2:]

    assert [line.split(" (")[0] for line in lines] == ["| 0.50 – 0.65 | 0.60 | 0/1", "| 0.75 – 0.85 | 0.80 | 1/1"]
    assert reliability([]) == ""


def test_summary_counts() -> None:
    rows = [row(entry(0.46, finding("slow_convergence")), entry(1.0, finding("overfitting", "warning")))]
    rows.append(row(entry(0.11), entry(0.98, finding("not_learning")), "so58609115"))
    text = summarize(rows, "pytorch")
    half = "1/2 (50 %, 9–91)"
    assert (
        f"| real | autotrainer | 2 | {half} | {half} | {half} | {half} | 0 % | 2 | {half} | {half} | {half} |" in text
    )
    assert "No error found:\n\n* so58609115 (seed 0)" in text
    assert "False alarms:" in text


def test_shared_fix_is_trained_once() -> None:
    zoo = tasks(load_cases(["zoo"]), "pytorch", 1)
    assert sum("fixed" in task["variants"] for task in zoo) == 3  # one each for Circle, Blob and MNIST
    assert all(task["case"] != "ptf-linreg-shape" for task in tasks(load_cases(["real"]), "keras3", 1))


def test_overhead_statistics() -> None:
    plain, watched = np.full(20, 2.0), np.full(20, 2.02)
    watched[3] = 6.02  # one block in which steps were measured
    assert median_ratio(plain, watched)[0] == pytest.approx(1.01)
    total, low, high = total_ratio(plain, watched)
    assert total == pytest.approx(1.11)
    assert low < total < high
    noisy = np.random.default_rng(0).normal(1.01, 0.01, 200)
    _, low, high = median_ratio(np.ones(200), noisy)
    assert low < 1.01 < high
    assert high - low < 0.01


def test_parity_of_frameworks() -> None:
    cause = finding("slow_convergence")
    rows = [row(entry(0.46, cause), entry(1.0)), row(entry(0.11), entry(0.98), "so58609115")]
    rows.append(row(entry(0.46, cause), entry(1.0), "so39939881"))
    other = [row(entry(0.46, cause), entry(1.0), framework="keras3")]
    other.append(row(entry(0.30, finding("dying_relu")), entry(0.98), "so58609115", "keras3"))
    other.append(row(entry(0.99), entry(1.0), "so39939881", "keras3"))
    verdicts = [v for of, name in ((rows, "pytorch"), (other, "keras3")) for v in judge_all(of, name)[0]]
    pairs, differing = agreement(verdicts)
    assert [a.case for a, _ in differing] == ["so58609115"]
    text = parity(verdicts)
    assert f"* all: {len(pairs) - 1}/{len(pairs)}" in text
    assert "* faulty: 1/2 (50 %" in text
    assert "so58609115 (seed 0): dying_relu only in keras3; scores 0.300 and 0.110; the trainings went" in text
