"""`fit` weakens regularization that keeps a model from learning anything, in both frameworks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import autotrainer
from autotrainer.edits import DropPenalties, Edit, LimitDropout, SetWeightDecay

pytestmark = pytest.mark.slow

PIXELS, CLASSES = load_digits(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(PIXELS))[:1000]
X, Y = (PIXELS[ORDER] / 16).astype("float32"), CLASSES[ORDER].astype("int64")


def torch_training(dropout: float, decay: float) -> tuple[Any, dict[str, Any]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=decay)
    return model, {"loss": nn.CrossEntropyLoss(), "optimizer": optimizer}


def keras_training(dropout: float, penalty: float) -> tuple[Any, dict[str, Any]]:
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(64, "relu", kernel_regularizer=keras.regularizers.L2(penalty) if penalty else None)
    model = keras.Sequential([keras.Input((64,)), hidden, keras.layers.Dropout(dropout), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, {"loss": loss, "optimizer": keras.optimizers.Adam(3e-3)}


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        pytest.param((torch_training, 0.98, 0.0), LimitDropout(0.2, ("2",)), id="dropout in PyTorch"),
        pytest.param((torch_training, 0.1, 1.0), SetWeightDecay(1e-4), id="weight decay in PyTorch"),
        pytest.param((keras_training, 0.98, 0.0), LimitDropout, id="dropout in Keras"),
        pytest.param((keras_training, 0.1, 3.0), DropPenalties, id="penalty in Keras"),
    ],
)
def test_regularization_that_prevents_learning_is_weakened(training: Any, expected: Edit | type[Edit]) -> None:
    make, *strengths = training
    model, arguments = make(*strengths)
    result = autotrainer.fit(
        model, (X[:800], Y[:800]), (X[800:], Y[800:]), epochs=12, batch_size=32, budget=10, progress=False, **arguments
    )
    assert result.findings[0].problem == "insufficient_capacity"
    assert result.plan is not None
    edit = result.plan.edits[0]
    assert (type(edit) if isinstance(expected, type) else edit) == expected
    assert result.plan.repairs[0] == "weaken_regularization"
    assert result.score > 0.85 > result.baseline_score + 0.2
