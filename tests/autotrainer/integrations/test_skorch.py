"""The callback for skorch shows what a plain loop under `watch` shows."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

import autotrainer
from autotrainer.errors import ConfigError, StateError
from tests.autotrainer.integrations.faults import (
    BATCH,
    FAULTS,
    HEALTHY,
    Training,
    make_training,
    plain_monitor,
    problems,
)

pytest.importorskip("skorch")

from skorch import NeuralNet, NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring, GradientNormClipping, LoadInitState
from skorch.dataset import Dataset
from skorch.helper import predefined_split

from autotrainer.integrations.skorch import AutoTrainer

pytestmark = pytest.mark.integrations


def net_of(training: Training, *callbacks: Any, **options: Any) -> Any:
    return NeuralNet(
        training.model,
        optimizer=lambda parameters, **kwargs: training.optimizer,
        criterion=training.loss,
        max_epochs=training.epochs,
        batch_size=BATCH,
        train_split=predefined_split(Dataset(*training.validation)),
        iterator_valid__batch_size=len(training.validation[0]),
        callbacks=list(callbacks),
        verbose=0,
        **options,
    )


def trained(name: str, *callbacks: Any) -> Any:
    training = make_training(name)
    return net_of(training, *callbacks).fit(training.inputs, training.targets)


class Perceptron(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(8, width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(x)))


X = np.random.default_rng(0).normal(size=(160, 8)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


def classifier(*callbacks: Any, rate: float = 0.1, **options: Any) -> Any:
    torch.manual_seed(0)
    settings = {"criterion": nn.CrossEntropyLoss, "max_epochs": 2, "batch_size": 32, "verbose": 0, **options}
    return NeuralNetClassifier(Perceptron, lr=rate, callbacks=list(callbacks), **settings)


def monitor_of(net: Any) -> autotrainer.Monitor:
    monitor: autotrainer.Monitor = dict(net.callbacks_)["AutoTrainer"].monitor
    return monitor


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "no_zero_grad"])
def test_finds_what_watch_finds(fault: str) -> None:
    expected, callback = plain_monitor(fault), AutoTrainer(overhead=1.0)
    trained(fault, callback)
    monitor = callback.monitor
    assert monitor is not None
    assert problems(monitor) == problems(expected) != {}
    assert (monitor.history.step, monitor.history.epoch) == (expected.history.step, expected.history.epoch)
    assert monitor.history.epoch_ends.tolist() == expected.history.epoch_ends.tolist()
    assert monitor.history.losses[1] == pytest.approx(expected.history.losses[1], rel=1e-4, nan_ok=True)
    assert [layer.name for layer in monitor.history.layers] == [layer.name for layer in expected.history.layers]
    assert monitor.context.loss == expected.context.loss
    assert monitor.context.planned_epochs == expected.context.planned_epochs


def test_a_healthy_training_stays_silent_and_what_it_is_to_the_bit() -> None:
    callback = AutoTrainer(stop_on="warning")
    ours, theirs = trained(HEALTHY, callback), trained(HEALTHY)
    assert problems(callback.monitor) == {}
    assert callback.stopped_by is None
    assert ours.history[:, "train_loss"] == theirs.history[:, "train_loss"]
    for one, other in zip(ours.module_.parameters(), theirs.module_.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gradients_are_those_before_clipping() -> None:
    norms = []
    for callbacks in ([], [GradientNormClipping(1e-3)]):
        callback = AutoTrainer(overhead=1.0)
        classifier(callback, *callbacks, max_epochs=1).fit(X, Y)
        assert callback.monitor is not None
        norms.append(callback.monitor.history.layer("grad_norm")[0])
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)


def test_stops_as_early_stopping_does_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    callback = AutoTrainer(stop_on="error")
    net = classifier(callback, rate=1e5, max_epochs=50, verbose=1).fit(X, Y)
    assert callback.stopped_by is not None
    assert callback.stopped_by.problem in capsys.readouterr().out
    assert len(net.history) < 10
    assert callback.monitor is not None
    assert callback.monitor.closed


def test_values_of_epochs_come_from_the_history() -> None:
    callback = AutoTrainer()
    classifier(EpochScoring("f1", name="valid_f1", lower_is_better=False), callback).fit(X, Y)
    assert callback.monitor is not None
    assert set(callback.monitor.history.epoch_names) == {"val_loss", "val_accuracy", "val_f1"}


def test_an_epoch_that_another_callback_stops_counts() -> None:
    callback = AutoTrainer()
    net = classifier(EarlyStopping(patience=1, threshold=10.0), callback, max_epochs=9).fit(X, Y)
    assert callback.monitor is not None
    assert callback.monitor.history.epoch == len(net.history) < 9


def test_partial_fit_goes_on_and_fit_begins_anew() -> None:
    callback = AutoTrainer()
    net, lengths = classifier(callback), []
    for method in (net.fit, net.partial_fit, net.partial_fit, net.fit):
        method(X, Y)
        assert callback.monitor is not None
        assert callback.monitor.context.planned_epochs == callback.monitor.history.epoch
        lengths.append((callback.monitor.history.step, callback.monitor.history.epoch))
    assert lengths == [(7, 2), (15, 4), (23, 6), (7, 2)]


def test_a_net_that_was_pickled_goes_on_in_one_history() -> None:
    net = classifier(AutoTrainer()).fit(X, Y)
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        other.partial_fit(X, Y)
        assert monitor_of(other).history.step == 15
    assert monitor_of(net).history.step == 7


@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_a_net_that_is_loaded_goes_on_in_one_history(first: bool, tmp_path: Path) -> None:
    saving = Checkpoint(monitor=None, dirname=str(tmp_path))
    order = [AutoTrainer, saving] if first else [saving, AutoTrainer]
    net = classifier(*order).fit(X, Y)
    assert sum("autotrainer" in batch for row in net.history for batch in row["batches"]) == 1
    resumed = classifier(*order, LoadInitState(saving)).fit(X, Y)
    assert monitor_of(resumed).history.epoch == (4 if first else 3)
    assert monitor_of(resumed).context.planned_epochs == 4
    assert len(resumed.history) == 4


class Failing(Callback):  # type: ignore[misc]
    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if len(net.history) == 2:
            raise RuntimeError("the disk is full")


def test_an_exception_leaves_a_monitor_that_the_next_training_closes() -> None:
    callback = AutoTrainer()
    net = classifier(callback, Failing(), max_epochs=3)
    with pytest.raises(RuntimeError, match="disk"):
        net.fit(X, Y)
    first = callback.monitor
    assert first is not None
    assert (first.history.epoch, first.closed) == (2, False)
    net.partial_fit(X, Y)
    assert first.closed
    assert first.interrupted
    assert callback.monitor is not None
    assert callback.monitor.history.epoch == 5


def test_follows_the_conventions_of_searches() -> None:
    original = classifier(AutoTrainer(overhead=0.5, ignore=("nan",)))
    copied = clone(original)
    assert copied.callbacks[0] is not original.callbacks[0]
    assert copied.callbacks[0].get_params() == original.callbacks[0].get_params()
    grid = {"lr": [0.1, 0.01], "callbacks__AutoTrainer__overhead": [0.02]}
    search = GridSearchCV(original, grid, cv=2, scoring="accuracy", error_score="raise").fit(X, Y)
    assert monitor_of(search.best_estimator_).history.step == 7
    assert dict(search.best_estimator_.callbacks_)["AutoTrainer"].overhead == 0.02
    assert original.callbacks[0].monitor is None


class Pair(NeuralNet):  # type: ignore[misc]
    """Two modules, each with its optimizer."""

    def initialize_module(self) -> Any:
        super().initialize_module()
        self.head_ = nn.Linear(2, 2)
        return self

    def initialize_optimizer(self, triggered_directly: Any = None) -> Any:
        self.optimizer_ = torch.optim.SGD(self.module_.parameters(), lr=0.1)
        self.optimizer_head_ = torch.optim.SGD(self.head_.parameters(), lr=0.1)
        return self

    def infer(self, x: Any, **fit_params: Any) -> Any:
        return self.head_(super().infer(x, **fit_params))


def test_several_modules_and_optimizers_are_one_training() -> None:
    torch.manual_seed(0)
    callback = AutoTrainer(overhead=1.0)
    Pair(Perceptron, criterion=nn.CrossEntropyLoss, max_epochs=2, batch_size=32, verbose=0, callbacks=[callback]).fit(
        X, Y
    )
    monitor = callback.monitor
    assert monitor is not None
    assert {layer.name for layer in monitor.history.layers} == {"hidden", "output", "head"}
    assert monitor.history.epoch == 2
    assert len(monitor.history.losses[0])


def test_misuse_is_one_clear_line() -> None:
    with pytest.raises(StateError, match="use one"):
        classifier(AutoTrainer(), AutoTrainer()).fit(X, Y)
    with pytest.raises(ConfigError, match="stop_on"):
        classifier(AutoTrainer(stop_on="never")).initialize()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown problem"):
        classifier(AutoTrainer(select="no_such_problem")).initialize()


def test_off_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    callback = AutoTrainer(stop_on="error")
    assert len(classifier(callback, rate=1e5).fit(X, Y).history) == 2
    assert callback.monitor is not None
    assert callback.monitor.history.step == -1


def test_a_missing_library_names_its_extra(run_python: Callable[..., Any]) -> None:
    done = run_python("import sys; sys.modules['skorch'] = None\nimport autotrainer.integrations.skorch")
    assert "pip install 'autotrainer-monitor[skorch]'" in done.stderr
