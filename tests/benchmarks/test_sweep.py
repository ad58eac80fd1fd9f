"""Sweeps over trained trials: work, the best score, and what is lost, by each method."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.sweep.simulation import METHODS, sweep
from benchmarks.sweep.suite import _kinds, _stopped

GOOD = {"values": [0.6, 0.7, 0.8, 0.9], "stopped": None}
FAIR = {"values": [0.6, 0.65, 0.7, 0.75], "stopped": None}
SICK = {"values": [0.5, 0.5, 0.5, 0.5], "stopped": 1}
BROKEN = {"values": [0.5, math.nan, math.nan, math.nan], "stopped": 2}
TRIALS: list[dict[str, Any]] = [FAIR, SICK, GOOD, BROKEN, SICK]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", range(3))
def test_work_never_exceeds_that_without_pruning(method: str, order: int) -> None:
    full, pruned = sweep(TRIALS, "no pruning", order), sweep(TRIALS, method, order)
    assert full.work == len(TRIALS)
    assert full.score == 0.9
    assert pruned.work <= full.work
    assert pruned.score <= full.score
    assert pruned.until_best <= full.until_best or math.isinf(pruned.until_best)


def test_ours_spares_what_is_left_of_stopped_trials_and_loses_nothing() -> None:
    assert sweep(TRIALS, "ours", 0).work == len(TRIALS) - (3 + 3 + 2) / 4
    assert sweep(TRIALS, "ours", 0).score == 0.9
    lost = sweep([FAIR, {**GOOD, "stopped": 1}], "ours", 0)
    assert lost.score == 0.75
    assert math.isinf(lost.until_best)


def test_a_stop_at_the_end_spares_nothing() -> None:
    assert sweep([{**SICK, "stopped": 4}], "ours", 0).work == 1
    assert not _stopped({**SICK, "stopped": 4})


def test_healthy_and_sick_trials() -> None:
    assert _kinds({"trivial": 0.5, "trials": TRIALS}) == (2, 0, 3, 3)
    assert _kinds({"trivial": 0.5, "trials": [{**GOOD, "stopped": 2}, FAIR]}) == (2, 1, 0, 0)
