"""The learning-rate range test: which rate a loss curve suggests, and what its run allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotrainer.adapter.spec import Trained, TrainingSpec
from autotrainer.diagnostics import lr_range_test
from autotrainer.diagnostics.lr_range_test import RangeTestRun, range_test_after_repair, rates_around, suggested_rate
from autotrainer.edits import ClipGradients, Edit, ScaleInputs, SetLearningRate, SwapOptimizer
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.signals import LAYER_COLUMNS, Observation
from autotrainer.records.task import TaskContext

RATES = rates_around(1e-3, 60)


def _curve(best: float, start: float = 2.3, lowest: float = 0.5, noise: float = 0.0) -> np.ndarray:
    """Losses that fall towards a rate and rise steeply beyond it."""
    below = 1 / (1 + (best / 10 / RATES) ** 2)
    above = np.maximum(0.0, np.log(RATES / best)) ** 2
    random = np.random.default_rng(0).normal(size=len(RATES))
    return start - (start - lowest) * below + 10 * above + noise * random


def test_rates_grow_geometrically_around_the_original_rate() -> None:
    assert RATES[[0, -1]] == pytest.approx([1e-6, 1.0])
    assert np.ptp(np.diff(np.log(RATES))) == pytest.approx(0, abs=1e-12)
    assert rates_around(3.0, 40)[-1] == pytest.approx(10.0)
    assert rates_around(1e-6, 40)[0] == pytest.approx(1e-7)


@pytest.mark.parametrize("best", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_suggested_rate_is_a_tenth_of_that_with_the_lowest_loss(best: float, noise: float, scale: float) -> None:
    rate = suggested_rate(RATES, scale * _curve(best, noise=noise))
    assert best / 40 < rate < best / 2


def test_exploding_or_nonfinite_end_is_ignored() -> None:
    losses = _curve(0.01)
    losses[50:] = [np.nan, *np.full(9, 0.0)]
    assert 0.01 / 40 < suggested_rate(RATES, losses) < 0.01 / 2
    losses[50:] = 0.0
    losses[44:50] = 1e6
    assert 0.01 / 40 < suggested_rate(RATES, losses) < 0.01 / 2


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(np.full(60, 0.7), id="flat"),
        pytest.param(np.linspace(0.7, 3.0, 60), id="rising"),
        pytest.param(np.full(60, np.nan), id="not a number"),
        pytest.param(_curve(0.01)[:8], id="eight steps"),
        pytest.param(np.zeros(0), id="none"),
    ],
)
def test_no_suggestion_without_a_decrease(losses: np.ndarray) -> None:
    assert math.isnan(suggested_rate(RATES[: len(losses)], losses))


def test_noise_hardly_ever_gives_a_suggestion() -> None:
    random = np.random.default_rng(0)
    rates = [suggested_rate(RATES, 0.7 + 0.2 * random.normal(size=60)) for _ in range(200)]
    assert np.isfinite(rates).mean() <= 0.03


@pytest.fixture
def run() -> Callable[..., tuple[RangeTestRun, list[float], list[int]]]:
    def build(settable: bool = True, budget: float = math.inf) -> tuple[RangeTestRun, list[float], list[int]]:
        rates: list[float] = []
        spent: list[int] = []

        def set_rate(trained: Trained, rate: float) -> bool:
            rates.append(rate)
            return settable

        def afford(work: int) -> bool:
            if sum(spent) + work > budget:
                return False
            spent.append(work)
            return True

        test = RangeTestRun(rates_around(0.1, 10), set_rate, afford)
        trained: Any = object()
        test.keep(trained)
        test.start(TaskContext(), 7.0)
        return test, rates, spent

    return build


def test_rate_of_each_step_is_set_and_work_is_charged(run: Callable[..., Any]) -> None:
    test, rates, spent = run()
    test.monitor.begin(TaskContext())
    for step in range(10):
        assert test.spend(32, training=True)
        test.monitor.record(Observation(step, np.zeros((0, len(LAYER_COLUMNS))), loss=float(step)))
    assert test.spend(5, training=False) is False, "no work after the last step"
    assert not test.spend(32, training=True)
    assert rates == pytest.approx(rates_around(0.1, 10))
    assert spent == [32 * 7 * 3] * 10
    np.testing.assert_array_equal(test.losses[1], np.arange(10))
    np.testing.assert_allclose(test.losses[0], rates)
    assert not test.end_epoch(0, {"loss": 1.0}, None)


def test_ends_with_the_budget_or_if_the_rate_cannot_be_set(run: Callable[..., Any]) -> None:
    test, _, spent = run(budget=32 * 21 * 3)
    assert [test.spend(32, training=True) for _ in range(4)] == [True, True, True, False]
    assert sum(spent) == 32 * 21 * 3
    test, _, spent = run(settable=False)
    assert not test.spend(32, training=True)
    assert spent == []


def test_nonfinite_loss_ends_the_test(run: Callable[..., Any]) -> None:
    test, _, _ = run()
    assert test.end_epoch(0, {"loss": 1.0}, None)
    assert not test.end_epoch(1, {"loss": math.nan}, None)


SCALE, RATE = ScaleInputs((0.0,), (1.0,)), SetLearningRate(0.1)


@pytest.mark.parametrize(
    ("edits", "evidence", "start", "tested"),
    [
        ((SCALE,), {}, 0, True),
        ((RATE, SCALE), {}, 0, True),
        ((SwapOptimizer("adam", 0.01),), {}, 0, True),
        ((SCALE, RATE), {}, 0, False),
        ((ClipGradients("norm", 1.0),), {}, 0, False),
        ((), {}, 0, False),
        ((SCALE,), {"first_step": 0.3}, 0, False),
        ((SCALE,), {}, 2, False),
    ],
)
def test_repaired_training_is_tested_if_its_rate_may_be_another_one(
    edits: tuple[Edit, ...], evidence: Mapping[str, float], start: int, tested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding("not_learning", "AT401", Severity.ERROR, 0.9, "It is.", evidence=evidence)
    finding = replace(finding, repairs=("scale_learning_rate",))
    learned: dict[str, float] = {}
    monitor = SimpleNamespace(findings=[finding], context=TaskContext(), learn=learned.update)
    run: Any = SimpleNamespace(monitor=monitor, afford=lambda work: True)
    trainer: Any = None
    monkeypatch.setattr(lr_range_test, "range_test", lambda *arguments: 0.02)
    range_test_after_repair(trainer, TrainingSpec(3, 0, edits, start=start), run)
    assert learned == ({"suggested_rate": 0.02} if tested else {})
