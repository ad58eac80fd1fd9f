"""`fit` from end to end: targets over several decades."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.edits import ScaleTargets
from autotrainer.reporting.result import Result

pytestmark = pytest.mark.slow

FRAMEWORKS = ("pytorch", "keras3")
X = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)


def fit(framework: str, y: Any) -> Result:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    data, options = (X, np.asarray(y, np.float32)[:, None]), {"epochs": 20, "budget": 3.0, "progress": False}
    if framework == "pytorch":
        model: Any = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        return autotrainer.fit(model, data, loss=nn.MSELoss(), optimizer=optimizer, **options)
    layers = [keras.Input((4,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return autotrainer.fit(model, data, **options)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_targets_over_decades_are_compared_as_logarithms_and_predicted_in_their_units(framework: str) -> None:
    y = np.exp(7 + 1.5 * X[:, 0] + X[:, 1])
    result = fit(framework, y)
    assert result.plan is not None, str(result.report())
    edit = next(edit for edit in result.plan.edits if isinstance(edit, ScaleTargets))
    assert edit.logarithm
    assert result.score > 0.7 > result.baseline_score
    outputs = result.model(torch.tensor(X)).detach() if framework == "pytorch" else result.model.predict(X, verbose=0)
    assert np.corrcoef(np.log(np.asarray(outputs)[:, 0].clip(1)), np.log(y))[0, 1] > 0.95
