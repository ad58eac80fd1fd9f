from __future__ import annotations

import math

import numpy as np
import pytest

from autotrainer.records.history import HistoryState, RunHistory
from autotrainer.records.schema import pack, rebuild
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


def _epochs(history: RunHistory) -> tuple[object, ...]:
    values = {name: [each.tolist() for each in history.epochs(name)] for name in history.epoch_names}
    return history.ended_epochs.tolist(), history.epoch_ends.tolist(), values


@pytest.mark.parametrize(
    ("epochs", "period", "gap"),
    [(1, 1, 1), (1024, 1, 1), (1025, 1, 2), (5000, 1, 8), (30_000, 1, 32), (30_000, 500, 500), (9000, 3, 12)],
)
def test_epochs_stay_evenly_spread(epochs: int, period: int, gap: int) -> None:
    history = RunHistory()
    for epoch in range(epochs):
        values = {"val_loss": float(epoch)} if epoch % period == 0 else {}
        history.add_epoch(epoch, 10 * epoch + 9, values)
    kept, losses = history.epochs("val_loss")
    assert kept.tolist() == losses.tolist()
    assert set(np.diff(kept[:-1])) <= {gap}, "evenly, but for the latest"
    assert min(epochs, 512) <= len(history.ended_epochs) <= 1025
    assert (history.epoch, history.ended_epochs[-1]) == (epochs, epochs - 1)
    assert [history.step_of_epoch(epoch) for epoch in range(0, epochs, 7)] == list(range(9, 10 * epochs, 70))
    steps = np.arange(0, 10 * epochs + 5, 3)
    assert (history.epochs_of(steps) == steps // 10).all()


@pytest.mark.parametrize("epochs", [900, 2048, 7777])
def test_epochs_that_are_dropped_leave_no_trace(epochs: int) -> None:
    """So a log may leave them out: what is read from it is what was there."""
    whole, read = RunHistory(), RunHistory()
    rng = np.random.default_rng(0)
    written = []
    for epoch in range(epochs):
        values = {"loss": float(epoch), **({"val_loss": 1.0} if epoch % 4 == 1 else {})}
        if whole.add_epoch(epoch, epoch, values) or rng.random() < 0.01:
            written.append(epoch)
            read.add_epoch(epoch, epoch, values)
            assert epoch % 10 or _epochs(read) == _epochs(whole)
    assert len(written) <= min(epochs, 1024) + 2 * 1024 * max(0, np.log2(epochs / 1024)) + 0.02 * epochs


def test_epochs_are_counted_again_beyond_those_that_are_kept() -> None:
    history = RunHistory()
    for epoch in range(3000):
        history.add_epoch(epoch, epoch, {"loss": 1.0})
    past = history.until(2001)
    assert (past.epoch, past.step, past.has_ended(2000), past.epoch_of_step) == (2001, 2000, True, 2000)
    history.add_epoch(1001, 3009, {"loss": 2.0})
    assert history.ended_epochs[-2:].tolist() == [1000, 1001]
    assert (history.epoch, history.step_of_epoch(1001)) == (1002, 3009)


def test_state_with_more_epochs_than_are_kept_is_read() -> None:
    history = RunHistory()
    state = history.to_dict()
    keys, rows = np.stack([np.arange(4096)] * 2, axis=1), np.arange(4096.0)
    state["ends"] = {"keys": pack(keys), "rows": pack(rows)}
    state["epochs"] = {"val_loss": state["ends"]}
    state["epoch"] = 4096
    read = RunHistory.from_state(rebuild(HistoryState, state))
    epochs, values = read.epochs("val_loss")
    assert epochs.tolist() == values.tolist() == read.ended_epochs.tolist()
    assert (len(epochs) <= 1025, epochs[0], epochs[-1], read.step_of_epoch(3001)) == (True, 0, 4095, 3001)
