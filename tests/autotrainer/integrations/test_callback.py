"""The base of all callbacks: options, start, epochs, stopping, closing, and the state for checkpoints."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.errors import ConfigError, InputError, StateError
from autotrainer.integrations._callback import WatchSession, held_out_values, require


class Training:
    """A small classification whose rate can be made too high."""

    def __init__(self, rate: float = 0.1, width: int = 16) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate)
        self.loss = nn.CrossEntropyLoss()
        self.x = torch.randn(64, 8)
        self.y = (self.x.sum(dim=1) > 0).long()

    def run(self, session: WatchSession, epochs: int) -> None:
        for _ in range(epochs):
            for i in range(0, 64, 16):
                self.optimizer.zero_grad()
                loss = self.loss(self.model(self.x[i : i + 16]), self.y[i : i + 16])
                loss.backward()
                self.optimizer.step()
                if session.should_stop:
                    return
            session.end_epoch({"val_loss": loss.detach(), "note": "text", "many": torch.ones(3)})

    def start(self, session: WatchSession, **options: Any) -> None:
        session.start(self.model, [self.optimizer], loss_fn=self.loss, **options)


def test_epochs_have_the_numbers_among_the_metrics() -> None:
    session, training = WatchSession("AutoTrainer"), Training()
    assert session.monitor is None
    assert session.state_dict() == {}
    training.start(session, epochs=2)
    training.run(session, 2)
    session.close()
    monitor = session.monitor
    assert monitor is not None
    assert monitor.closed
    assert not monitor.interrupted
    assert (monitor.history.step, monitor.history.epoch) == (7, 2)
    assert set(monitor.history.epoch_names) >= {"val_loss"}
    assert not set(monitor.history.epoch_names) & {"note", "many"}


@pytest.mark.parametrize("stop_on", [None, "error", "warning"])
def test_stops_on_the_severity_that_was_asked_for(stop_on: Any) -> None:
    findings: list[autotrainer.Finding] = []
    session, training = WatchSession("AutoTrainer", stop_on=stop_on, on_finding=findings.append), Training(1e6)
    training.start(session, epochs=30)
    training.run(session, 30)
    assert (session.stopped_by is not None) == session.should_stop == (stop_on is not None)
    if session.stopped_by is not None and session.monitor is not None:
        assert session.stopped_by.severity == "error"
        assert session.monitor.history.step < 100
    assert findings
    session.close()


def test_a_warning_stops_only_where_that_was_asked_for() -> None:
    stopped = {}
    for stop_on in ("error", "warning"):
        session, training = WatchSession("AutoTrainer", stop_on=stop_on), Training()
        training.start(session, epochs=30)
        finding = autotrainer.Finding("shuffled_data", "AT999", autotrainer.Severity.WARNING, 1.0, "A warning.")
        assert session.monitor is not None
        session.monitor._engine._current["shuffled_data"] = finding
        session._note_finding(finding)
        stopped[stop_on] = session.should_stop
        session.close()
    assert stopped == {"error": False, "warning": True}


@pytest.mark.parametrize("planned", [{"epochs": 2}, {"steps": 8}, {"epochs": 2, "batches": 4}])
@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_stops_a_training_at_its_planned_end(
    planned: dict[str, int], at_end: bool, caplog: pytest.LogCaptureFixture
) -> None:
    session, training = WatchSession("AutoTrainer", stop_on="error"), Training()
    batches = planned.pop("batches", None)
    training.start(session, **planned)
    monitor = session.monitor
    assert monitor is not None
    if batches:
        monitor.learn({"epoch_batches": float(batches)})
    training.run(session, 1 if not at_end else 2)
    finding = autotrainer.Finding("too_few_epochs", "AT999", autotrainer.Severity.ERROR, 1.0, "An error.")
    monitor._engine._current["too_few_epochs"] = finding
    session._note_finding(finding)
    with caplog.at_level(logging.INFO, logger="autotrainer"):
        assert session.should_stop is not at_end
    assert ("is stopped" in caplog.text) is not at_end
    assert (session.stopped_by is None) is at_end
    session.close()


def test_a_resumed_run_goes_on_in_one_history() -> None:
    first, training = WatchSession("AutoTrainer"), Training()
    training.start(first, epochs=6)
    training.run(first, 3)
    state = json.loads(json.dumps(first.state_dict()))
    first.close(RuntimeError("preempted"))
    assert first.monitor is not None
    assert first.monitor.interrupted

    second = WatchSession("AutoTrainer")
    second.load_state_dict(state)
    assert second.state_dict() == state
    training.start(second, epochs=6, epochs_done=3, steps_done=12)
    training.run(second, 3)
    second.close()
    monitor = second.monitor
    assert monitor is not None
    assert (monitor.history.step, monitor.history.epoch) == (23, 6)
    assert monitor.context.planned_epochs == 6
    steps, losses = monitor.history.losses
    assert steps.tolist() == list(range(24))
    before = first.monitor.history.losses[1]
    assert losses[: len(before)].tolist() == before.tolist()
    assert monitor.history.epoch_ends.tolist() == [3, 7, 11, 15, 19, 23]


def test_a_state_that_comes_after_the_start_counts_before_the_first_step() -> None:
    first, training = WatchSession("AutoTrainer"), Training()
    training.start(first)
    training.run(first, 1)
    state = first.state_dict()
    first.close()
    second = WatchSession("AutoTrainer")
    training.start(second)
    second.load_state_dict(state)
    training.run(second, 1)
    second.close()
    assert second.monitor is not None
    assert second.monitor.history.step == 7


def test_the_same_callback_goes_on_where_the_library_does() -> None:
    session, training = WatchSession("AutoTrainer"), Training()
    lengths = []
    for done in (0, 4, 0):
        training.start(session, steps_done=done, position=done, epochs=9, epochs_done=done // 4)
        training.run(session, 1)
        session.close(position=done + 4)
        assert session.monitor is not None
        lengths.append((session.monitor.history.step + 1, session.monitor.history.epoch))
    assert lengths == [(4, 1), (8, 2), (4, 1)]


def test_a_run_that_was_not_watched_from_the_start_is_the_rest_of_it() -> None:
    session, training = WatchSession("AutoTrainer"), Training()
    training.start(session, epochs=10, epochs_done=4, steps_done=16)
    assert session.monitor is not None
    assert session.monitor.context.planned_epochs == 6
    session.close()


def test_another_model_at_the_same_step_has_a_history_of_its_own() -> None:
    session = WatchSession("AutoTrainer")
    for done in (0, 4):
        training = Training()
        training.start(session, steps_done=done, position=done)
        training.run(session, 1)
        session.close(position=4)
    assert session.monitor is not None
    assert session.monitor.history.step == 3


def test_options_that_can_be_read_once_count_for_each_training() -> None:
    class Counts:
        closed = 0

        def scalars(self, step: int, mapping: Any) -> None: ...

        def finding(self, finding: Any) -> None: ...

        def close(self) -> None:
            self.closed += 1

    sink, training = Counts(), Training()
    session = WatchSession("AutoTrainer", sinks=iter([sink]), select=iter(["nonfinite"]))
    for _ in range(2):
        training.start(session)
        session.close()
    assert sink.closed == 2


def test_the_history_of_another_model_is_left(caplog: pytest.LogCaptureFixture) -> None:
    first, training = WatchSession("AutoTrainer"), Training()
    training.start(first)
    training.run(first, 1)
    first.close()
    other = Training()
    other.model = nn.Sequential(nn.Linear(8, 2))
    other.optimizer = torch.optim.SGD(other.model.parameters(), lr=0.1)
    second = WatchSession("AutoTrainer")
    second.load_state_dict(first.state_dict())
    with caplog.at_level(logging.WARNING, "autotrainer"):
        other.start(second)
        other.run(second, 1)
        second.close()
    assert "a new history begins" in caplog.text
    assert second.monitor is not None
    assert len(second.monitor.history.layers) == 1
    assert second.monitor.history.step == 7


@pytest.mark.parametrize("state", [{"monitor": 3}, {"monitor": {"autotrainer_state": "1", "history": {}}}, {}, None, 7])
def test_a_damaged_state_begins_anew(state: Any, caplog: pytest.LogCaptureFixture) -> None:
    session, training = WatchSession("AutoTrainer"), Training()
    with caplog.at_level(logging.WARNING, "autotrainer"):
        session.load_state_dict(state)
    assert ("a new history begins" in caplog.text) == bool(isinstance(state, dict) and state)
    training.start(session)
    training.run(session, 1)
    session.close()
    assert session.monitor is not None
    assert session.monitor.history.step == 3


def test_misuse_is_one_clear_line() -> None:
    training = Training()
    session = WatchSession("AutoTrainer")
    with pytest.raises(InputError, match="needs an optimizer"):
        session.start(training.model, [])
    training.start(session)
    with pytest.raises(StateError, match="already watches a training"):
        training.start(session)
    with pytest.raises(StateError, match="use one"):
        training.start(WatchSession("AutoTrainer"))
    session.close()
    with pytest.raises(ConfigError, match="stop_on"):
        WatchSession("AutoTrainer", stop_on="info")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'overhead'"):
        WatchSession("AutoTrainer", overheads=0.1)
    for options in ({"overhead": 2}, {"epochs": 0}, {"probe": "yes"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            WatchSession("AutoTrainer", **options)
    with pytest.raises(ConfigError, match="on_finding"):
        WatchSession("AutoTrainer", on_finding=5)
    with pytest.raises(ConfigError):
        WatchSession("AutoTrainer", select="no_such_problem")


def test_a_missing_library_names_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'autotrainer-monitor\[some\]'") as caught:
        require("no_such_library.part", "some")
    assert isinstance(caught.value, ImportError)
    with pytest.raises(ConfigError, match="too old"):
        require("torch", "torch", minimum="999.0")
    assert require("torch", "torch", minimum="2.0") is torch


def test_metrics_on_held_out_data() -> None:
    metrics = {"val_loss": 1, "valid/acc": 2, "eval_f1": 3, "auc_val": 4, "value_loss": 5, "loss": 6, "lr": 7}
    assert held_out_values(metrics) == {"val_loss": 1, "val_accuracy": 2, "val_f1": 3, "val_auc": 4}


def test_off_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    session, training = WatchSession("AutoTrainer", stop_on="error"), Training(math.inf)
    training.start(session)
    training.run(session, 1)
    session.close()
    assert session.state_dict() == {}
    assert not session.should_stop
