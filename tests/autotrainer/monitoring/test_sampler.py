"""Which steps are sampled."""

from __future__ import annotations

from itertools import pairwise

import pytest

from autotrainer.errors import ConfigError
from autotrainer.monitoring.sampler import Sampler, StepSampler


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(sampler: Sampler, clock: Clock, steps: int, *, step_time: float, cost: float) -> list[int]:
    """Go through a training and return the sampled steps."""
    sampled = []
    for step in range(steps):
        if step >= sampler.next_step and sampler.due(step):
            sampled.append(step)
            clock.now += cost
            sampler.charge(cost, sample=True)
        clock.now += step_time
    return sampled


def test_first_ten_steps_are_always_sampled() -> None:
    clock = Clock()
    assert run(Sampler(0.01, clock), clock, 10, step_time=1e-4, cost=10.0) == list(range(10))


def test_samples_are_log_spaced_without_cost() -> None:
    clock = Clock()
    sampled = run(Sampler(1.0, clock), clock, 10_000, step_time=1.0, cost=0.0)
    assert sampled[:60] == list(range(50)) + list(range(50, 70, 2))
    decades = [sum(10**d <= s < 10 ** (d + 1) for s in sampled) for d in (2, 3)]
    assert all(50 <= count <= 70 for count in decades)
    gaps = [b - a for a, b in pairwise(sampled)]
    assert all(gap <= max(1, step // 25 + 1) for gap, step in zip(gaps, sampled, strict=False))


def test_hooks_are_part_of_the_allowed_overhead() -> None:
    clock = Clock()
    costly = run(Sampler(1.0, clock), clock, 1000, step_time=3e-4, cost=5e-3)
    assert costly == run(Sampler(1.0, clock), clock, 1000, step_time=3e-4, cost=0.0)
    clock = Clock()
    sampler = Sampler(0.01, clock)
    run(sampler, clock, 500_000, step_time=5e-4, cost=1e-3)
    assert 0.12 < sampler.spent <= 0.12 + 0.006 * clock.now


@pytest.mark.parametrize("share", [0.01, 0.1])
@pytest.mark.parametrize(("step_time", "cost"), [(5e-4, 3e-3), (5e-4, 5e-2), (0.1, 0.05), (1e-5, 1e-3)])
def test_cost_stays_within_share_and_allowance(share: float, step_time: float, cost: float) -> None:
    clock = Clock()
    sampler = Sampler(share, clock)
    steps = 20_000
    sampled = run(sampler, clock, steps, step_time=step_time, cost=cost)
    first = 10 * cost  # these come whatever they cost
    assert sampler.spent == pytest.approx(len(sampled) * cost)
    assert sampler.spent <= max(first, 0.2 + share * clock.now)
    if steps * step_time * share > 20 * cost + 0.2:
        assert sampled[-1] > steps * 0.5


def test_charged_costs_delay_samples() -> None:
    clock = Clock()
    sampler = Sampler(0.01, clock)
    sampler.charge(1.0)
    assert not sampler.affordable()
    assert sampler.due(5)
    assert not sampler.due(20)
    assert sampler.next_step > 20
    clock.now = 200.0
    assert sampler.affordable()
    assert sampler.due(25)


def test_step_is_not_sampled_twice() -> None:
    sampler = Sampler()
    assert sampler.due(0)
    assert not sampler.due(0)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), "1 %", None, True])
def test_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(ConfigError, match="overhead must be a share"):
        Sampler(share)


def test_step_sampler_ignores_time() -> None:
    clock = Clock()
    free = run(Sampler(1.0, clock), clock, 1000, step_time=1.0, cost=0.0)
    sampler = StepSampler()
    assert run(sampler, clock, 1000, step_time=1e-9, cost=1e3) == free
    assert not sampler.affordable()
    off = StepSampler(active=False)
    assert not any(off.due(step) for step in range(100))
