"""The budget: counts work, and decides what is allowed."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.training.budget import Budget, Workload


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_work_is_an_integer() -> None:
    work = Workload(10.4)
    assert work.of(7, training=False) == 70
    assert work.of(7, training=True) == 210
    assert Workload(0).of(1, training=False) == Workload(float("nan")).of(1, training=False) == 1


@given(limit=st.floats(0.01, 20), unit=st.integers(1, 10**18), share=st.integers(1, 100))
def test_limit_in_trainings_is_used_up_but_never_exceeded(limit: float, unit: int, share: int) -> None:
    budget = Budget(limit)
    budget.measure(unit)
    piece = max(1, unit // share)
    for _ in range(4001):  # a piece is at least 1 / 200 of a training
        if not budget.allows(piece):
            break
        budget.spend(piece)
    assert budget.in_trainings(budget.spent) <= limit
    assert not budget.allows(piece)
    assert budget.in_trainings(budget.spent + piece) >= limit * (1 - 1e-12)


def test_everything_is_allowed_until_the_unit_is_known() -> None:
    budget = Budget(0.5)
    assert budget.allows(10**30)
    budget.spend(10)
    budget.end_baseline()
    assert budget.unit == 10
    assert not budget.allows(1)


def test_wall_time_limit() -> None:
    clock = Clock()
    budget = Budget(timedelta(seconds=10), clock)
    budget.measure(1)
    assert budget.timed
    assert budget.allows(10**9)
    clock.now += 10
    assert not budget.allows(1)


def test_default_is_three_trainings_or_a_minute_within_half_an_hour() -> None:
    clock = Clock()
    budget = Budget(None, clock)
    budget.measure(100)
    budget.spend(300)
    budget.end_baseline()
    assert budget.allows(100), "within the first minute"
    clock.now += 61
    assert not budget.allows(100)
    slow = Budget(None, clock)
    slow.measure(100)
    slow.spend(100)
    clock.now += 10_000
    assert slow.allows(100), "the baseline training is not limited"
    slow.end_baseline()
    assert slow.allows(200)
    assert not slow.allows(201)
    clock.now += 1800
    assert not slow.allows(100)


@pytest.mark.parametrize("trainings", [float("inf"), 10**6])
def test_huge_limits(trainings: float) -> None:
    budget = Budget(trainings)
    budget.measure(1)
    budget.spend(10**5)
    assert budget.allows(1)


def test_numpy_numbers_are_accepted() -> None:
    for limit in (np.float32(2), np.int64(2)):
        budget = Budget(limit)
        budget.measure(10)
        assert budget.allows(20)
        assert not budget.allows(21)


def test_work_that_is_held_back_is_not_allowed() -> None:
    budget = Budget(2.0)
    budget.measure(100)
    budget.spend(50)
    with budget.holding(1):
        assert budget.allows(50)
        assert not budget.allows(51)
    assert budget.allows(150)


def test_long_trainings_are_not_covered_without_a_budget() -> None:
    now = [0.0]
    budget = Budget(None, clock=lambda: now[0])
    budget.measure(100)
    budget.spend(2)
    now[0] = 30.0
    assert budget.covers(2)  # a training takes 25 minutes
    now[0] = 40.0
    assert not budget.covers(2)
