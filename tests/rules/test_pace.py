"""How fast a loss falls, and how long a training should last, where a history holds fewer of the older losses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotrainer.records.history import RunHistory
from autotrainer.rules._shared.extrapolation import extrapolate, length_evidence
from autotrainer.rules._shared.pace import loss_series, pace


def thinned(losses: np.ndarray) -> RunHistory:
    history = RunHistory()
    history.add_losses(list(enumerate(losses.tolist())))
    history.step = len(losses) - 1
    return history


@pytest.mark.parametrize("steps", [4000, 6000, 12_000, 30_000])
def test_long_curves_are_judged_like_complete_ones(steps: int) -> None:
    curve = 0.2 + np.exp(-np.arange(steps) / steps) + 0.02 * np.random.default_rng(steps).normal(size=steps)
    history, true = thinned(curve), 1 + math.log(10)
    evidence = length_evidence(history)
    assert evidence["shortest_length"] <= true <= evidence["longest_length"]
    assert evidence["needed_length"] == pytest.approx(true, rel=0.15)
    complete, kept = pace(np.arange(steps), curve), pace(*loss_series(history))
    assert complete is not None
    assert kept is not None
    assert kept.fall == pytest.approx(complete.fall, rel=0.05)
    assert kept.gain == pytest.approx(complete.gain, rel=0.1)


@pytest.mark.parametrize("power", [False, True])
def test_interval_contains_the_length_as_often_as_it_says(power: bool) -> None:
    places, contained = np.arange(400), 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        shape = random.uniform(0.4, 1.5)
        true = 10 ** (1 / shape) if power else 1 + shape * math.log(10)
        fall = ((places + 0.5) / 20) ** -shape if power else np.exp(-places / 400 / shape)
        noise = 0.05 * np.ptp(fall[80:]) * random.normal(size=400)
        curve = extrapolate(places, 0.2 + fall + noise)
        assert curve is not None
        assert curve.shortest < curve.length < curve.longest or curve.longest == 100
        contained += curve.shortest <= min(true, 100) <= curve.longest
    assert contained >= 40  # of 50 at 90 %: three standard errors below 45 are 38.6
