"""Steps that several processes sample together."""

from __future__ import annotations

import pytest

from autotrainer.monitoring.ranks.agreed_steps import AgreedSteps
from autotrainer.monitoring.sampler import Sampler


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def sampled(steps: int, seconds: float, cost: float, share: float = 0.01, start: int = 0) -> list[list[int]]:
    """Return the steps that a process that leads, and one that follows, sample; costs are those of the leader."""
    clock = Time()
    sampler = Sampler(share, clock)
    sampler.due(0)
    leader, follower = AgreedSteps(start, sampler), AgreedSteps(start, None)
    taken: list[list[int]] = [[start], [start]]
    for step in range(start, steps):
        clock.now += seconds
        if step == taken[0][-1]:  # the step has ended
            sampler.begin_sample()
            with sampler.stopwatch:
                clock.now += cost
            sampler.end_sample()
            follower.learn(leader.choose(step + 1))
        for each, own in zip((leader, follower), taken, strict=True):
            if each.next == step + 1:
                each.take()
                own.append(step + 1)
    return taken


@pytest.mark.parametrize(
    ("seconds", "cost"),
    [(0.001, 1e-5), (0.001, 0.01), (0.1, 0.5), (2.0, 20.0)],
    ids=["cheap", "costly", "slow", "large"],
)
def test_all_processes_sample_the_steps_that_one_can_afford(seconds: float, cost: float) -> None:
    leader, follower = sampled(5000, seconds, cost)
    assert leader == follower
    assert leader[:2] == [0, 1]
    total = 5000 * seconds
    assert cost * len(leader) <= max(1.0, 0.01 * total) + 3 * cost


def test_without_a_limit_the_schedule_is_that_of_one_process() -> None:
    alone = Sampler(1.0)
    assert sampled(300, 0.01, 1e-6, share=1.0)[1] == [step for step in range(301) if alone.due(step)]


def test_a_choice_counts_from_the_first_step_of_each_process() -> None:
    leader, follower = AgreedSteps(0, Sampler(1.0)), AgreedSteps(1000, None)
    for now in (1, 2, 3):
        follower.learn(leader.choose(now))
        leader.take()
        assert follower.next is not None
        follower.take()
    assert (leader.next, follower.next) == (4, 1004)


def test_a_process_that_has_heard_nothing_knows_no_step() -> None:
    follower = AgreedSteps(0, None)
    follower.take()
    assert follower.next is None


def test_further_steps_are_chosen_as_long_as_they_have_not_begun() -> None:
    class Rare:
        def following(self, step: int, now: int) -> int:
            return step + 100

    steps = AgreedSteps(0, Rare())
    assert [steps.choose(1, 30, -1), steps.choose(2, 30)] == [30, 130]
