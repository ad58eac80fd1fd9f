"""Optuna: sick trials end with their cause as an attribute, others as the wrapped pruner decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.errors import InputError

optuna = pytest.importorskip("optuna")
integration = pytest.importorskip("autotrainer.integrations.optuna")

pytestmark = pytest.mark.integrations

EPOCHS, BATCHES = 8, 8


def _study(pruner: Any = None) -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))


def _objective(trial: Any, *, use_pruner: bool = False) -> float:
    kind = trial.suggest_categorical("kind", ["healthy", "slow", "nan", "dead", "diverging"])
    rate = {"healthy": 0.1, "slow": 0.03, "nan": 1e30, "dead": 0.1, "diverging": 0.1}[kind]
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = (x[:, 0] > x[:, 1]).long()
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    if kind == "dead":
        nn.init.constant_(model[0].bias, -100.0)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), rate), nn.CrossEntropyLoss()
    sign = -1 if kind == "diverging" else 1
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=EPOCHS, overhead=1.0) as monitor:
        callback = integration.AutoTrainerPruningCallback(trial, monitor)
        score = 0.0
        for epoch in range(EPOCHS):
            for batch, target in zip(x.split(32), y.split(32), strict=True):
                optimizer.zero_grad()
                (sign * loss_fn(model(batch), target)).backward()
                optimizer.step()
            with torch.no_grad():
                score = float((model(x).argmax(1) == y).float().mean())
            monitor.end_epoch(val_accuracy=score)
            trial.report(score, epoch)
            if not use_pruner:
                callback()
            elif callback.update() or trial.should_prune():
                assert trial.should_prune()
                raise optuna.TrialPruned
    return score


@pytest.mark.parametrize("use_pruner", [False, True])
def test_sick_trials_are_pruned_with_their_cause(use_pruner: bool) -> None:
    study = _study(integration.AutoTrainerPruner() if use_pruner else optuna.pruners.NopPruner())
    for kind in ("healthy", "slow", "nan", "dead", "diverging"):
        study.enqueue_trial({"kind": kind})
    study.optimize(lambda trial: _objective(trial, use_pruner=use_pruner), n_trials=5)
    states = {trial.params["kind"]: trial.state.name for trial in study.trials}
    assert states == {
        "healthy": "COMPLETE",
        "slow": "COMPLETE",
        "nan": "PRUNED",
        "dead": "PRUNED",
        "diverging": "PRUNED",
    }
    causes = {t.params["kind"]: t.user_attrs.get("autotrainer_cause") for t in study.trials}
    assert causes["healthy"] is causes["slow"] is None
    assert all(causes[kind] for kind in ("nan", "dead", "diverging"))
    assert all(t.user_attrs["autotrainer_message"].isprintable() for t in study.trials if t.state.name == "PRUNED")
    epochs = {t.params["kind"]: len(t.intermediate_values) for t in study.trials}
    assert epochs["nan"] <= 2
    assert max(epochs["dead"], epochs["diverging"]) < EPOCHS


def test_other_trials_are_left_to_the_wrapped_pruner() -> None:
    class Never(optuna.pruners.BasePruner):  # type: ignore[misc, name-defined]
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.user_attrs.get("prune", False))

    study = _study(integration.AutoTrainerPruner(Never()))
    trial = study.ask()
    assert not trial.should_prune()
    trial.set_user_attr("prune", True)
    assert trial.should_prune()
    assert not integration.AutoTrainerPruner().prune(study, study.trials[0])


def test_what_is_no_monitor_is_an_error_of_input() -> None:
    with pytest.raises(InputError, match="a trial needs its monitor"):
        integration.AutoTrainerPruningCallback(_study().ask(), nn.Linear(1, 1))


def test_a_callback_of_a_library_gives_its_monitor_later() -> None:
    class Callback:
        monitor = None

    callback = integration.AutoTrainerPruningCallback(_study().ask(), Callback())
    callback("epoch", logs={})
    assert not callback.update()


@pytest.mark.slow
def test_sick_trials_of_keras_are_pruned_with_their_cause() -> None:
    import keras
    import numpy as np

    draw = np.random.default_rng(0)
    x = draw.normal(size=(256, 8)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int64")

    def objective(trial: Any) -> float:
        kind = trial.suggest_categorical("kind", ["healthy", "zeros", "nan"])
        keras.utils.set_random_seed(0)
        init = "zeros" if kind == "zeros" else "glorot_uniform"
        hidden = keras.layers.Dense(16, activation="relu", kernel_initializer=init)
        model = keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(2, kernel_initializer=init)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e30 if kind == "nan" else 0.1), loss, metrics=["accuracy"])
        with autotrainer.watch(model, overhead=1.0) as monitor:
            prune_if_sick = integration.AutoTrainerPruningCallback(trial, monitor)

            def end_epoch(epoch: int, logs: dict[str, float]) -> None:
                trial.report(logs["val_accuracy"], epoch)
                prune_if_sick(epoch, logs)

            callback = keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)
            fit = model.fit(x, y, epochs=EPOCHS, batch_size=32, validation_split=0.2, callbacks=[callback], verbose=0)
        return float(fit.history["val_accuracy"][-1])

    study = _study()
    for kind in ("healthy", "zeros", "nan"):
        study.enqueue_trial({"kind": kind})
    study.optimize(objective, n_trials=3)
    trials = {trial.params["kind"]: trial for trial in study.trials}
    states = {kind: trial.state.name for kind, trial in trials.items()}
    assert states == {"healthy": "COMPLETE", "zeros": "PRUNED", "nan": "PRUNED"}
    assert "autotrainer_cause" not in trials["healthy"].user_attrs
    assert trials["zeros"].user_attrs["autotrainer_cause"] == "poor_initialization"
    assert trials["nan"].user_attrs["autotrainer_cause"]
    epochs = {kind: len(trial.intermediate_values) for kind, trial in trials.items()}
    assert epochs["healthy"] == EPOCHS
    assert max(epochs["zeros"], epochs["nan"]) <= 2
