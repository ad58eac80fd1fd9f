"""Outcomes and tables of ``repair``."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.repair import experience
from benchmarks.repair.outcomes import clipped_ratio, outcomes
from benchmarks.repair.suite import summarize

FIT = "fit"
RANDOM = "random uniform"


def attempt(method: str, repaired: float, *, plan: str | None = "x", budget: float = 3.0) -> dict[str, Any]:
    numbers = {"repaired": repaired, "cost": 2.5, "cost_to_win": None if plan is None else 1.2}
    return {"method": method, "budget": budget, **numbers, "plan": plan, "attempts": []}


def row(
    case: str, *methods: dict[str, Any], fix_cost: float = 1.0, seed: int = 0, original: float = 0.5
) -> dict[str, Any]:
    task = {"framework": "pytorch", "source": "real", "case": case, "seed": seed}
    options = {"budgets": [3.0], "methods": [FIT, RANDOM]}
    return {
        "task": {**task, **options},
        "given": original,
        "fixed": 1.0,
        "fix_cost": fix_cost,
        "methods": list(methods),
    }


@pytest.mark.parametrize(
    ("repaired", "ratio"), [(0.5, 0.0), (0.7, 0.5), (0.9, 1.0), (0.95, 1.0), (0.3, 0.0), (float("nan"), 0.0)]
)
def test_improvement_ratio_is_clipped(repaired: float, ratio: float) -> None:
    assert clipped_ratio(0.5, repaired, 0.9) == pytest.approx(ratio)


def test_expensive_fixes_are_separate_and_losses_counted() -> None:
    rows = [row("so50306988", attempt(FIT, 1.0), attempt(RANDOM, 0.75))]
    rows.append(row("so58609115", attempt(FIT, 0.4), attempt(RANDOM, 0.75)))
    rows.append(row("so39939881", attempt(FIT, 0.75), attempt(RANDOM, 0.5), fix_cost=40.0))
    rows.append(row("so43239467", attempt(FIT, 0.9, plan=None), attempt(RANDOM, 0.75)))
    rows.append(row("sse418955", attempt(FIT, 1.0), original=0.99))
    text = summarize(rows, "pytorch")
    assert (
        "| real | fit | 3 | 0.333 (0.000–1.000) | 1/3 (33 %, 6–79) | 1/3 (33 %, 6–79) | – | 1 | 1.20 | 1.20 |" in text
    )
    assert "| real | random uniform | 3 | 0.500 (0.500–0.500) |" in text
    assert "| real | original | 3 | 0.000 (0.000–0.000) |" in text
    assert "| fix beyond the budget | fit | 1 | 0.500" in text
    assert "* random uniform: -0.167 (" in text
    assert "Got worse with fit:\n\n* so58609115 (seed 0): 0.500 → 0.400" in text
    assert "* sse418955: 0.990 original, 1.000 fixed: no fault shows" in text


def test_crash_counts_as_no_repair_and_is_listed() -> None:
    rows = [row("so50306988", {"method": FIT, "budget": 3.0, "error": "ValueError: no"}, attempt(RANDOM, 0.75))]
    results, left_out = outcomes(rows, "pytorch")
    assert [(o.method, o.ratio) for o in results] == [(FIT, 0.0), (RANDOM, 0.5), ("original", 0.0)]
    assert not left_out
    text = summarize(rows, "pytorch")
    assert "| real | fit | 1 | 0.000" in text
    assert "* random uniform: -0.500 (" in text
    assert "Crashed:\n\n* so50306988 (seed 0), fit: ValueError: no" in text


def test_repaired_requires_significant_gain_over_five_seeds() -> None:
    rows = [row("so50306988", attempt(FIT, 0.9), seed=seed) for seed in range(5)]
    rows += [row("so58609115", attempt(FIT, 0.9 if seed % 2 else 0.45), seed=seed) for seed in range(5)]
    assert "| real | fit | 10 of 2 cases | 0.560 (" in summarize(rows, "pytorch")
    assert "| 1/2 (50 %, 9–91) | 3 |" in summarize(rows, "pytorch")
    assert "| – | 1 |" in summarize(rows[5:8], "pytorch").replace("| 2 |", "| 1 |")


def test_a_training_without_a_baseline_is_no_experience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "case_of", lambda _: SimpleNamespace(family="family"))
    gains = {}
    for baseline in (0.5, math.nan):
        entry = {"baseline": baseline, "tried": [("target_mismatch", "fix_loss cross_entropy logits", 0.9)]}
        row = {"task": {"framework": "pytorch", "case": "x", "seed": 0}, "given": 0.5, "fixed": 1.0, "methods": [entry]}
        gains[baseline] = [round(o.gain, 3) for o in experience.observations([row])]
    assert list(gains.values()) == [[0.8], []]
