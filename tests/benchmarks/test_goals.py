"""Goals and measured values."""

from __future__ import annotations

from benchmarks.detect.verdicts import Verdict
from benchmarks.repair.outcomes import Outcome
from benchmarks.reporting.goals import detect_goals, repair_goals


def training(i: int, *, faulty: bool, detected: bool) -> Verdict:
    errors = ("nonfinite",) if detected else ()
    accepted = frozenset({"nonfinite"}) if faulty else frozenset()
    rank = 1 if detected and faulty else None
    first = 10 if detected else None
    return Verdict(f"c{i}", "real", faulty, 0.5, errors, errors, (), rank, accepted, first, 1000)


def outcome(i: int, method: str, repaired: float) -> Outcome:
    return Outcome(f"c{i}", "real", "pytorch", 0, method, 3.0, 0.0, repaired, 1.0, 1.0, 2.0, 1.4, "x")


def test_shares_are_compared_with_goals_and_intervals() -> None:
    good = [training(i, faulty=True, detected=True) for i in range(200)]
    text = detect_goals([*good, *(training(i, faulty=False, detected=False) for i in range(600))])
    assert text.count("| met |") == 5
    few = detect_goals([*good[:5], training(9, faulty=False, detected=True)])
    assert "| error found, real programs | ≥ 95 % | 5/5 (100 %, 57–100) | met, not beyond noise |" in few
    assert "| error on healthy | ≤ 1 % | 1/1 (100 %, 21–100) | **missed** |" in few
    bad = detect_goals([training(i, faulty=True, detected=i > 50) for i in range(100)])
    assert "| error found, real programs | ≥ 95 % | 49/100 (49 %, 39–59) | **missed** |" in bad
    assert "| error on healthy | ≤ 1 % | – | not measured |" in bad


def test_fit_is_compared_with_goals_and_random_search() -> None:
    results = [outcome(i, "fit", 0.7) for i in range(10)] + [outcome(i, "random uniform", 0.8) for i in range(10)]
    text = repair_goals(results)
    assert "| clipped IR, mean | ≥ 0.75 | 0.700 | **missed** |" in text
    assert "| IR ≥ 0.9 | ≥ 65 % | 0/10 (0 %, 0–28) | **missed** |" in text
    assert "| clipped IR above that of random uniform | > 0 | -0.100 | **missed** |" in text
    assert "| cost to win, median | ≤ 1.05 | 1.40 | **missed** |" in text
    assert "| cost to win, p90 | ≤ 2 | 1.40 | met |" in text
    assert "| got worse | 0 | 10 | **missed** |" in repair_goals([outcome(i, "fit", -0.5) for i in range(10)])
    assert repair_goals([outcome(0, "random uniform", 0.8)]) == ""
