"""Which steps are sampled, and at what cost, in simulated time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from autotrainer.errors import ConfigError
from autotrainer.monitoring.sampler import Sampler, StepSampler, is_milestone

HOOK = 2.5e-6


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """Trains in simulated time.

    Args:
        share: Share of the time that monitoring may cost.
        step_time: Seconds of a step.
        cost: Seconds of a sample.
        noise: Largest relative deviation of a cost.
        load: Factor by which other processes extend all wall times.
        seed: Seed of the noise.
    """

    def __init__(
        self, share: float, step_time: float, cost: float, *, noise: float = 0.0, load: float = 1.0, seed: int = 0
    ) -> None:
        self.wall, self.processor = Clock(), Clock()
        self.sampler = Sampler(share, self.wall, processor=self.processor)
        self._step_time, self._cost, self._noise, self._load = step_time, cost, noise, load
        self._random = random.Random(seed)
        self.step = 0
        self.sampled: list[int] = []
        self.spent_at: list[tuple[float, float]] = []

    def train(self, steps: int) -> list[int]:
        """Go through so many steps, and return those sampled so far."""
        sampler = self.sampler
        for _ in range(steps):
            if self.step >= sampler.next_step and sampler.due(self.step):
                self.sampled.append(self.step)
                sampler.begin_sample()
                with sampler.stopwatch:
                    self._work(self._cost * (1 + self._random.uniform(-self._noise, self._noise)))
                sampler.end_sample()
                self.spent_at.append((self.wall.now, sampler.spent))
            self._work(self._step_time)
            self.step += 1
        return self.sampled

    def _work(self, seconds: float) -> None:
        self.processor.now += seconds
        self.wall.now += seconds * self._load


def test_samples_are_evenly_spaced_in_each_octave() -> None:
    sampled = Machine(1.0, 1e-3, 1e-3).train(20_000)
    assert sampled[:36] == [*range(32), 33, 35, 37, 39]
    assert {0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047, 4095, 8191, 16383} <= set(sampled)
    gaps = [after - before for before, after in pairwise(sampled)]
    assert all(gap <= max(1, (step + 1) // 8) for gap, step in zip(gaps, sampled, strict=False))
    assert [sum(2**k <= step + 1 < 2 ** (k + 1) for step in sampled) for k in range(5, 14)] == [16] * 4 + [8] * 5


@pytest.mark.parametrize("steps", [30, 300, 3000, 20_000])
@pytest.mark.parametrize("step_time", [5e-4, 5e-3])
def test_noise_of_costs_and_a_busy_machine_change_no_step(steps: int, step_time: float) -> None:
    usual = Machine(0.01, step_time, 2e-3).train(steps)
    assert usual == Machine(1.0, step_time, 0.0).train(steps), "an ordinary short run is sampled as often as ever"
    for seed in range(5):
        assert Machine(0.01, step_time, 2e-3, noise=0.5, seed=seed).train(steps) == usual
        assert Machine(0.01, step_time, 2e-3, noise=0.2, load=5.0, seed=seed).train(steps) == usual


@pytest.mark.parametrize("share", [0.003, 0.01, 0.1])
@pytest.mark.parametrize("cost", [1e-3, 1e-2, 0.05, 0.3])
@pytest.mark.parametrize("step_time", [1e-3, 0.02])
def test_cost_is_never_above_the_allowance(share: float, cost: float, step_time: float) -> None:
    machine = Machine(share, step_time, cost, noise=0.5)
    machine.train(20_000)
    for wall, spent in machine.spent_at[1:]:
        assert spent <= max(1.5 * cost, min(1.0, 60 * share), share * wall) + 0.5 * cost
    first = machine.spent_at[0][1]
    assert machine.spent_at[-1][1] <= first + 0.8 * max(min(1.0, 60 * share), share * machine.wall.now) + cost


@pytest.mark.parametrize(("seconds", "samples"), [(2, 90), (10, 110), (60, 120), (300, 130)])
def test_cost_of_whole_runs(seconds: int, samples: int) -> None:
    machine = Machine(0.01, 1e-3, 2e-3)
    sampled = machine.train(1000 * seconds)
    assert len(sampled) >= samples
    hooks = HOOK * machine.step
    assert machine.sampler.spent + hooks <= (0.6 if seconds <= 60 else 0.01 * seconds)


def test_costly_samples_are_spread_over_the_run() -> None:
    for cost in (0.01, 0.02, 0.05):
        sampled = Machine(0.01, 1e-3, cost).train(40_000)
        assert sampled[:2] == [0, 1]
        assert sampled[-1] > 1000
        assert len(sampled) >= 0.25 / cost


def test_first_samples_of_large_models_double_their_distance() -> None:
    sampled = Machine(0.01, 1.0, 0.9).train(3000)
    assert sampled[0] == 0
    assert all(step + 1 & step == 0 for step in sampled[:4]), "after 1, 3, 7, … steps, as soon as affordable"
    assert len(sampled) >= 8
    assert sampled[-1] > 2000


def test_density_rises_again_with_the_time() -> None:
    machine = Machine(0.01, 0.05, 0.02)
    sampled = machine.train(1 << 15)
    late = [step for step in sampled if step >= 1 << 14]
    assert len(late) == 8, "1% of half an hour affords all samples"
    assert machine.sampler.spent < 0.01 * machine.wall.now


def test_work_that_is_no_sample_delays_samples() -> None:
    clock = Clock()
    sampler = Sampler(0.01, clock)
    sampler.stopwatch.add(1.0)
    assert not sampler.affordable()
    assert sampler.due(0), "the first step is always sampled"
    assert not sampler.due(20)
    assert sampler.next_step > 20
    clock.now = 200.0
    assert sampler.affordable()
    assert sampler.due(31)


def test_evaluations_within_a_sample_are_no_part_of_its_cost() -> None:
    clock = Clock()
    sampler = Sampler(0.01, clock)
    for step in range(6):
        assert sampler.due(step)
        sampler.begin_sample()
        with sampler.stopwatch:
            clock.now += 0.001
            with sampler.stopwatch, sampler.evaluations:
                clock.now += 0.02
        sampler.end_sample()
    assert sampler.spent == pytest.approx(6 * 0.021)
    assert sampler._cost == pytest.approx((0.001, 0.001))


def test_a_busy_machine_adds_to_the_wall_time_alone() -> None:
    wall, processor = Clock(), Clock()
    sampler = Sampler(0.01, wall, processor=processor)
    with sampler.stopwatch:
        wall.now, processor.now = 3.0, 1.0
    assert (sampler.stopwatch.work, sampler.stopwatch.wall) == (1.0, 3.0)
    with sampler.stopwatch:
        wall.now, processor.now = 4.0, 9.0
    assert sampler.stopwatch.work == 2.0, "several threads work no longer than the clock runs"
    sampler.stopwatch.waits = True
    with sampler.stopwatch:
        wall.now = 6.0
    assert sampler.stopwatch.work == 4.0, "waiting for an accelerator counts"


def test_extra_steps_are_sampled_where_all_others_are() -> None:
    machine = Machine(0.01, 1e-3, 1e-3)
    machine.train(100)
    assert machine.sampler.allows_extra()
    machine = Machine(0.01, 1e-3, 0.02)
    machine.train(100)
    assert not machine.sampler.allows_extra()
    assert not StepSampler().allows_extra()


def test_milestones() -> None:
    assert [epoch for epoch in range(40) if is_milestone(epoch)] == [*range(8), 9, 11, 13, 15, 19, 23, 27, 31, 39]


def test_step_is_not_sampled_twice() -> None:
    sampler = Sampler()
    assert sampler.due(0)
    assert not sampler.due(0)


@pytest.mark.parametrize("first", [7, 500, 100_000])
def test_a_continued_training_has_early_samples_of_its_own(first: int) -> None:
    fresh, continued = Machine(0.01, 0.1, 0.02), Machine(0.01, 0.1, 0.02)
    continued.step = first
    assert continued.train(2000) == [first + step for step in fresh.train(2000)]
    sampler = continued.sampler
    following = sampler.following(continued.step, continued.step)
    assert first < continued.step < following <= continued.step + 2000


def test_steps_before_the_first_one_are_skipped() -> None:
    sampler = Sampler()
    assert sampler.due(0)
    sampler.skip(500)
    assert sampler.next_step == 501
    assert sampler.due(501)


@pytest.mark.parametrize(
    ("share", "cost", "step_time", "first"),
    [
        (0.01, 0.55, 1.0, 0),  # within the 0.6 s of a short run
        (0.01, 2.0, 1.0, 201),  # 1 % of 200 s, and the time that the hooks take
        (0.1, 2.0, 1.0, 21),
        (1.0, 50.0, 1.0, 0),
    ],
)
def test_a_costly_first_sample_waits_until_the_time_covers_it(
    share: float, cost: float, step_time: float, first: int
) -> None:
    machine = Machine(share, step_time, cost)
    machine.sampler.expect(cost, cost)
    assert machine.train(300)[0] == pytest.approx(first, rel=0.03)
    assert machine.spent_at[0][1] == pytest.approx(cost)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), "1 %", None, True])
def test_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(ConfigError, match="overhead must be a share"):
        Sampler(share)


def test_step_sampler_ignores_time() -> None:
    sampler = StepSampler()
    sampled = []
    for step in range(1000):
        if sampler.due(step):
            sampled.append(step)
            sampler.begin_sample()
            sampler.stopwatch.add(1e3)
            sampler.end_sample()
    assert sampled == Machine(1.0, 1.0, 0.0).train(1000)
    assert sampler.affordable()
    off = StepSampler(active=False)
    assert not any(off.due(step) for step in range(100))


@pytest.mark.parametrize(("spent", "during", "after"), [(0.1, True, True), (0.53, False, True), (0.58, False, False)])
def test_a_share_of_the_allowance_is_kept_for_the_end(spent: float, during: bool, after: bool) -> None:
    sampler = Sampler(clock=lambda: 0.0)
    sampler.kept = 0.1
    sampler.stopwatch.add(spent)
    assert sampler.affordable(0.05) == during
    sampler.kept = 0.0
    assert sampler.affordable(0.05) == after
