"""The user's scheduler in repaired trainings: the same schedule at another rate, from any state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from autotrainer.backends.pytorch.optim.optimizers import set_rate
from autotrainer.backends.pytorch.optim.schedulers import scheduler_maker


def _one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=100.0, total_steps=10)


def _warm_up_then_cosine(optimizer: Any) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 7)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])


def _chained(optimizer: Any) -> Any:
    parts = [lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


def _cyclic(optimizer: Any) -> Any:
    return lr_scheduler.CyclicLR(optimizer, 1.0, 4.0, step_size_up=2, cycle_momentum=False)


def _rates(optimizer: Any, scheduler: Any, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("made", [_one_cycle, _warm_up_then_cosine, _chained, _cyclic], ids=lambda made: made.__name__)
@pytest.mark.parametrize("done", [0, 4])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_copied_schedulers_continue_and_scale_with_the_rate(
    made: Callable[[Any], Any], done: int, scale: float
) -> None:
    """The schedule of a repaired training has the given one's course from where it was, at another rate."""

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=4.0, momentum=0.9)

    given, other = optimizer(), optimizer()
    schedule = made(given)
    start = float(given.param_groups[0].get("initial_lr", given.param_groups[0]["lr"]))
    _rates(given, schedule, done)
    last_layer = scheduler_maker(schedule, given)
    assert last_layer is not None
    other.load_state_dict(given.state_dict())
    if scale != 1:
        set_rate(other, scale * start)
    copied = last_layer(other)
    follows = _rates(other, copied, 5)
    assert follows == pytest.approx([scale * rate for rate in _rates(given, schedule, 5)])
    assert copied.get_last_lr()[0] == pytest.approx(other.param_groups[0]["lr"])


def test_scheduler_of_one_group_is_copied_to_several_groups() -> None:
    one = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=4.0, momentum=0.9)
    last_layer = scheduler_maker(_one_cycle(one), one)
    assert last_layer is not None
    groups = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    several = torch.optim.Adam(groups, lr=0.5)
    schedule = last_layer(several)
    _rates(several, schedule, 4)
    rates = [group["lr"] for group in several.param_groups]
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0] > 0.5
