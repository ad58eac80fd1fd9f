"""Trainings whose loss weights classes: judged by balanced accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer

RNG = np.random.default_rng(12)
X = RNG.normal(size=(1900, 10)).astype("float32")
Y = (X[:, 0] + X[:, 1] * X[:, 2] + RNG.normal(0, 0.3, 1900) > 1.9).astype("int64")


@pytest.mark.parametrize(
    ("weights", "status"),
    [
        ([0.55, 5.0], "healthy"),  # whose accuracy is below the share of the common class
        ([5.0, 0.55], "repaired"),
    ],
)
def test_rare_class_counts_as_much_as_the_common_one(weights: list[float], status: str) -> None:
    torch.manual_seed(0)
    result = autotrainer.fit(
        nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2)),
        (X[:1400], Y[:1400]),
        (X[1400:], Y[1400:]),
        loss=nn.CrossEntropyLoss(weight=torch.tensor(weights)),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-3),
        epochs=25,
        budget=3.0,
        metric="balanced_accuracy",
        progress=False,
    )
    assert (result.status, result.metric) == (status, "balanced_accuracy")
    assert result.score > 0.8
    assert ("weighted in the loss" in str(result.plan)) is (status == "repaired")
