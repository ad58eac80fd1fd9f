"""Ray Tune: sick trials are stopped with their cause among the results."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.tune")
integration = pytest.importorskip("autotrainer.integrations.ray")

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray itself
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROOT = Path(__file__).parents[3]


def test_stopper_stops_once_a_cause_is_reported() -> None:
    stopper = integration.AutoTrainerStopper()
    assert not stopper("a", {"loss": 1.0})
    assert not stopper("a", {"loss": 1.0, "autotrainer_cause": "", "autotrainer_message": ""})
    assert stopper("b", {"loss": 1.0, "autotrainer_cause": "dying_relu", "autotrainer_message": "AT201"})
    assert stopper.causes == {"b": "dying_relu"}
    assert stopper.stop_all() is False


def _train(config: dict[str, Any]) -> None:
    import torch
    from ray import tune

    import autotrainer
    from autotrainer.integrations.ray import TrialFindings

    torch.manual_seed(0)
    x = torch.randn(128, 4)
    y = (x[:, 0] > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), config["rate"]), torch.nn.CrossEntropyLoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=6, overhead=1.0) as monitor:
        findings = TrialFindings(monitor)
        for _ in range(6):
            for batch, target in zip(x.split(16), y.split(16), strict=True):
                optimizer.zero_grad()
                loss = loss_fn(model(batch), target)
                loss.backward()
                optimizer.step()
            monitor.end_epoch()
            tune.report({"loss": float(loss), **findings.result()})


def _train_keras(config: dict[str, Any]) -> None:
    import keras
    import numpy as np
    from ray import tune

    import autotrainer
    from autotrainer.integrations.ray import TrialFindings

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(config["rate"]), loss)
    with autotrainer.watch(model, overhead=1.0) as monitor:
        findings = TrialFindings(monitor)

        def report(epoch: int, logs: dict[str, float]) -> None:
            tune.report({"loss": logs["loss"], **findings.result()})

        callback = keras.callbacks.LambdaCallback(on_epoch_end=report)
        model.fit(x, y, epochs=6, batch_size=16, callbacks=[callback], verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("train", [_train, _train_keras])
def test_sick_trial_of_an_experiment(
    train: Callable[[dict[str, Any]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray import tune

    for name, value in {"PYTHONPATH": str(ROOT), "RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env=environment)
        try:
            stopper = integration.AutoTrainerStopper()
            run = tune.RunConfig(stop=stopper, storage_path=str(tmp_path), verbose=0)
            space = {"rate": tune.grid_search([0.1, 1e30])}
            results = tune.Tuner(train, param_space=space, run_config=run).fit()
        finally:
            ray.shutdown()
    by_rate = {result.config["rate"]: result for result in results}
    assert by_rate[0.1].metrics["training_iteration"] == 6
    assert by_rate[0.1].metrics["autotrainer_cause"] == ""
    assert by_rate[1e30].metrics["training_iteration"] < 6
    assert by_rate[1e30].metrics["autotrainer_cause"]
