"""Sweeps over trained trials: work, the best score, and what is lost, by each method."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.sweep.simulation import METHODS, sweep
from benchmarks.sweep.suite import _against_rivals, _stops
from benchmarks.sweep.trials import HEALTHY, SICK, progress_of, stopped_early

GOOD = {"values": [0.6, 0.7, 0.8, 0.9], "stopped": None}
FAIR = {"values": [0.6, 0.65, 0.7, 0.75], "stopped": None}
SICK_TRIAL = {"values": [0.5, 0.5, 0.5, 0.5], "stopped": 1}
BROKEN = {"values": [0.5, math.nan, math.nan, math.nan], "stopped": 2}
MISSED = {**SICK_TRIAL, "stopped": None}


def _row(*trials: dict[str, Any]) -> dict[str, Any]:
    return {"trivial": 0.5, "trials": trials}


ROW = _row(FAIR, SICK_TRIAL, GOOD, BROKEN, MISSED)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", range(3))
def test_work_never_exceeds_that_without_pruning(method: str, order: int) -> None:
    full, pruned = sweep(ROW, "no pruning", order), sweep(ROW, method, order)
    assert full.work == len(ROW["trials"])
    assert full.score == 0.9
    assert pruned.work <= full.work
    assert pruned.score <= full.score
    assert pruned.until_best <= full.until_best or math.isinf(pruned.until_best)


@pytest.mark.parametrize("order", range(3))
def test_ours_spares_what_is_left_of_stopped_trials_and_the_oracle_all_of_sick_ones(order: int) -> None:
    full, ours, oracle = (sweep(ROW, method, order) for method in ("no pruning", "ours", "oracle"))
    assert ours.work == full.work - (3 + 2) / 4
    assert oracle.work == full.work - 3
    assert ours.score == oracle.score == full.score
    assert oracle.until_best <= ours.until_best <= full.until_best


def test_a_healthy_trial_that_is_stopped_costs_its_score() -> None:
    lost = sweep(_row(FAIR, {**GOOD, "stopped": 1}), "ours", 0)
    assert lost.score == 0.75
    assert math.isinf(lost.until_best)


def test_a_stop_at_the_end_spares_nothing() -> None:
    trial = {**SICK_TRIAL, "stopped": 4}
    assert sweep(_row(trial), "ours", 0).work == 1
    assert not stopped_early(trial)


def test_trials_are_told_by_the_way_they_have_gone() -> None:
    ways = progress_of(ROW)
    assert ways == pytest.approx([0.625, 0, 1, -math.inf, 0])
    assert [way >= HEALTHY for way in ways] == [True, False, True, False, False]
    assert [way <= SICK for way in ways] == [False, True, False, True, True]
    assert progress_of(_row(BROKEN, SICK_TRIAL)) == [-math.inf, -math.inf]  # none is better than trivial


def test_words_on_rivals_and_stops() -> None:
    until = {"median": 0.8, "median + ours": 0.6, "median + oracle": 0.4, "Hyperband": 0.9}
    words = _against_rivals(until, ("median", "Hyperband"))
    assert "median + ours takes 25 % less work than median" in words
    assert "more than 50 % less" in words
    stops = _stops([_row(FAIR, SICK_TRIAL, GOOD, MISSED)])
    assert "Healthy trials stopped: 0/2" in stops
    assert "of which stopped: 1/2" in stops
    assert "after 0.25 of their epochs" in stops
    assert "0.38 is spared" in stops
