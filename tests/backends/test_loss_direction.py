"""Custom losses of a distance, low for targets of 1: accuracy would count every right row as wrong."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.backends.keras3.training import loss_direction as of_keras
from autotrainer.backends.pytorch.training import loss_direction as of_pytorch


def contrastive(targets: Any, distances: Any, maximum: Any) -> Any:
    return targets * distances**2 + (1 - targets) * maximum(1 - distances) ** 2


def focal(targets: Any, logits: Any, exp: Any, log: Any) -> Any:
    likelihood = 1 / (1 + exp((1 - 2 * targets) * logits))
    return -((1 - likelihood) ** 2) * log(likelihood)


class TwoArguments(nn.Module):
    def forward(self, outputs: Any, targets: Any, margin: Any) -> Any:
        return (outputs - targets).abs().mean() - margin


KERAS = {
    "contrastive": lambda t, d: keras.ops.mean(contrastive(t, d, keras.ops.relu)),
    "of each row": lambda t, d: contrastive(t, d, keras.ops.relu)[:, 0],
    "1 for others": lambda t, d: keras.ops.mean(contrastive(1 - t, d, keras.ops.relu)),
    "focal": lambda t, z: keras.ops.mean(focal(t, z, keras.ops.exp, keras.ops.log)),
    "constant": lambda t, z: keras.ops.mean(t),
    "other shapes": lambda t, z: z[:, 5],
}
PYTORCH = {
    "contrastive": lambda d, t: contrastive(t, d, torch.relu).mean(),
    "of each row": lambda d, t: contrastive(t, d, torch.relu),
    "1 for others": lambda d, t: contrastive(1 - t, d, torch.relu).mean(),
    "focal": lambda z, t: focal(t, z, torch.exp, torch.log).mean(),
    "constant": lambda z, t: t.mean(),
    "more arguments": TwoArguments(),
}


@pytest.mark.parametrize(
    ("of", "loss", "expected"),
    [
        pytest.param(of, loss, name in ("contrastive", "of each row"), id=f"{name} in {framework}")
        for framework, of, losses in (("Keras", of_keras, KERAS), ("PyTorch", of_pytorch, PYTORCH))
        for name, loss in losses.items()
    ],
)
def test_losses_of_a_distance(of: Any, loss: Any, expected: bool) -> None:
    assert of.is_of_distance(loss) is expected


def _pairs(rows: int, seed: int) -> tuple[Any, Any]:
    """Return differences of points, and 1 where they are of the same kind."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 2, (rows, 2))
    points = random.normal(size=(rows, 2, 6)) + 2 * (2 * kinds[:, :, None] - 1)
    return (points[:, 0] - points[:, 1]).astype(np.float32), (kinds[:, 0] == kinds[:, 1])[:, None].astype(np.float32)


class Distance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.embed(x).square().sum(1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_a_healthy_distance_is_kept_and_compared_by_its_loss(framework: str) -> None:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    if framework == "pytorch":
        model: Any = Distance()
        options: dict[str, Any] = {
            "loss": lambda d, t: contrastive(t, d, torch.relu).mean(),
            "optimizer": lambda parameters: torch.optim.Adam(parameters, 0.02),
        }
    else:
        x = keras.Input((6,))
        embedded = keras.layers.Dense(4, use_bias=False)(x)
        length = keras.layers.Lambda(lambda v: keras.ops.sqrt(keras.ops.sum(v**2, axis=1, keepdims=True) + 1e-6))
        model, options = keras.Model(x, length(embedded)), {}
        model.compile(keras.optimizers.Adam(0.02), KERAS["contrastive"])
    result = autotrainer.fit(model, _pairs(300, 0), _pairs(200, 1), epochs=10, budget=2.5, progress=False, **options)
    assert result.metric == "negative loss"
    distances, same = _pairs(200, 1)
    if framework == "pytorch":
        predicted = result.model(torch.tensor(distances)).detach().numpy()
    else:
        predicted = result.model.predict(distances, verbose=0)
    assert ((predicted < 0.5) == (same == 1)).mean() > 0.9
