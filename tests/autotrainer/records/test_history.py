from __future__ import annotations

import math

import numpy as np
import pytest

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats


def _stats(step: int, loss: float = math.nan, layers: int = 1) -> StepStats:
    scalars = np.full(len(STEP_COLUMNS), np.nan)
    scalars[STEP_COLUMNS.index("loss")] = loss
    return StepStats(step, step // 100, scalars, np.full((layers, len(LAYER_COLUMNS)), float(step)))


def test_columns_are_selected_by_name() -> None:
    history = RunHistory([LayerInfo("a"), LayerInfo("b")])
    for step in (0, 5):
        history.add_step(_stats(step, loss=step, layers=2))
    assert history.steps.tolist() == [0, 5]
    assert history.scalar("loss").tolist() == [0, 5]
    assert history.layer("grad_norm").tolist() == [[0, 0], [5, 5]]


def test_losses_are_in_step_order() -> None:
    history = RunHistory([LayerInfo("a")])
    history.add_step(_stats(0, 1.0))
    history.add_step(_stats(3, 0.5), losses=[(1, 0.9), (2, math.inf)])
    steps, values = history.losses
    assert steps.tolist() == [0, 1, 2, 3]
    assert values.tolist() == [1.0, 0.9, math.inf, 0.5]


def test_memory_is_bounded_and_recent_steps_stay_complete() -> None:
    history = RunHistory([LayerInfo("a")])
    size = history.bytes
    for step in range(20_000):
        history.add_step(_stats(step, 1.0))
    assert history.bytes == size
    kept = history.steps
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert (np.diff(kept[-256:]) == 1).all()
    older = np.diff(kept[kept < 10_000])
    assert older.max() <= 4 * older.mean(), "older rows are spread over the whole run"


@pytest.mark.parametrize(("value", "stored"), [(0.5, 0.5), (math.nan, math.inf), (-math.inf, math.inf)])
def test_nonfinite_epoch_values_become_infinite(value: float, stored: float) -> None:
    history = RunHistory()
    history.add_epoch(0, 9, {"val_loss": value})
    epochs, values = history.epochs("val_loss")
    assert (epochs.tolist(), values.tolist()) == ([0], [stored])
    assert (history.step, history.epoch, history.step_of_epoch(0)) == (9, 1, 9)
    assert history.epochs("unknown")[0].size == 0


def test_epoch_without_values_ends() -> None:
    history = RunHistory()
    assert not history.has_ended(0)
    history.add_epoch(0, 9, {})
    assert history.has_ended(0)
    assert history.step_of_epoch(0) == 9
    assert history.epoch_of_step == 0
    history.step = 10
    assert (history.step_of_epoch(0), history.epoch_of_step) == (9, 1)


def test_history_until_an_epoch_continues_independently() -> None:
    history = RunHistory([LayerInfo("a")])
    for epoch in range(3):
        for step in (100 * epoch, 100 * epoch + 50):
            history.add_step(_stats(step, 1.0 / (step + 1)), losses=[(step + 1, 2.0)])
        history.add_epoch(epoch, 100 * epoch + 99, {"val_loss": float(epoch)})
    past = history.until(2)
    assert (past.step, past.epoch, past.epoch_of_step) == (199, 2, 1)
    assert past.steps.tolist() == [0, 50, 100, 150]
    assert past.layer("grad_norm")[:, 0].tolist() == [0, 50, 100, 150]
    assert past.losses[0].max() == 151
    assert past.epochs("val_loss")[1].tolist() == [0.0, 1.0]
    assert (past.has_ended(1), past.has_ended(2)) == (True, False)
    past.add_step(_stats(200, 9.0))
    past.add_epoch(2, 299, {"val_loss": 7.0})
    assert past.epochs("val_loss")[1].tolist() == [0.0, 1.0, 7.0]
    assert history.epochs("val_loss")[1].tolist() == [0.0, 1.0, 2.0], "the original is unchanged"
    assert past.bytes == history.bytes
