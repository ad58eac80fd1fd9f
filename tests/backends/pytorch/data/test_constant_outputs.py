"""The loss of the best constant outputs: its value, and what it says of trainings whose loss is the user's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import autotrainer
from autotrainer.backends.pytorch.data.batches import LoaderBatches
from autotrainer.backends.pytorch.data.constant_outputs import losses_with_constant_outputs
from autotrainer.backends.pytorch.data.objective import Objective

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(1000, 6)).astype(np.float32)
LINE = (2 * X[:, :1] + np.sin(2 * X[:, 1:2]) + 0.3 * RANDOM.normal(size=(1000, 1))).astype(np.float32)


def net(units: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, units))


def normal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of a normal distribution, but for a constant."""
    mean, log_std = outputs.chunk(2, -1)
    return (log_std + 0.5 * ((targets - mean) / log_std.exp()) ** 2).mean()


def mixture(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return that of a mixture of three."""
    weights, means, log_std = outputs.chunk(3, -1)
    parts = torch.log_softmax(weights, -1) - log_std - 0.5 * ((targets - means) / log_std.exp()) ** 2
    return -torch.logsumexp(parts, -1).mean()


class TwoHeads(nn.Module):
    """A price and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.price, self.kind = net(8), nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.price(hidden), self.kind(hidden)


def two_losses(model: nn.Module, batch: Any) -> Tensor:
    price, kind = model(batch[0])
    return F.mse_loss(price, batch[1]) + F.cross_entropy(kind, (batch[1][:, 0] > 5000).long())


def _losses(model: nn.Module, step: Any, scale: float = 300.0, offset: float = 5000.0) -> tuple[Any, Any, int]:
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(LINE * scale + offset)), 500)
    batches = LoaderBatches(loader, torch.device("cpu"), pairs=False)
    return losses_with_constant_outputs(model, Objective(None, step), batches, batches)


def test_the_constants_minimize_the_loss_however_far_they_are() -> None:
    model, prices = net(2), LINE * 300 + 5000
    own, constant, _ = _losses(model, lambda model, batch: normal(model(batch[0]), batch[1]))
    assert constant.mean() == pytest.approx(math.log(prices.std()) + 0.5, abs=0.05)
    assert own.mean() > 1e5
    assert "forward" not in vars(model)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_several_outputs_have_a_constant_each() -> None:
    _, constant, work = _losses(TwoHeads(), two_losses)
    share = (LINE > 0).mean()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert constant.mean() == pytest.approx((LINE * 300).var() + entropy, rel=0.02)
    assert 0 < work < 200 * 4 * 3 * 1000  # less than 200 losses of two rows of outputs each


def test_a_loss_that_does_not_call_the_model_as_a_whole_shows_nothing() -> None:
    own, constant, _ = _losses(
        net(1), lambda model, batch: F.mse_loss(model[2](model[1](model[0](batch[0]))), batch[1])
    )
    assert len(own) == len(constant) == 0


@pytest.mark.parametrize(("loss", "units"), [(normal, 2), (mixture, 9)])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (300.0, 5000.0)])
def test_parameters_of_a_distribution_are_judged_by_their_likelihood(
    loss: Any, units: int, scale: float, offset: float
) -> None:
    model, y = net(units), LINE * np.float32(scale) + np.float32(offset)
    data = (X[:800], y[:800]), (X[800:], y[800:])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    result = autotrainer.fit(model, *data, loss=loss, optimizer=optimizer, epochs=12, budget=3.0, progress=False)
    assert result.metric == "negative loss"
    assert (result.status == "healthy") is (offset == 0)
    if result.status == "repaired":
        outputs = result.model(torch.from_numpy(X[800:]))
        assert float(loss(outputs, torch.from_numpy(y[800:]))) < math.log(scale * LINE.std()) + 0.5


class Views(Dataset[Any]):
    """Rows without targets."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"view": self.rows[row]}


def two_views(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    first, second = (F.normalize(model(batch["view"] + 0.1 * torch.randn_like(batch["view"])), dim=-1) for _ in "ab")
    return first, second


def alike(model: nn.Module, batch: Any) -> Tensor:
    first, second = two_views(model, batch)
    return (2 - 2 * (first * second.detach()).sum(-1)).mean()


def apart(model: nn.Module, batch: Any) -> Tensor:
    first, second = two_views(model, batch)
    return F.cross_entropy(first @ second.T / 0.2, torch.arange(len(first)))


def rebuilt(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch["view"]), batch["view"])


@pytest.mark.parametrize(("step", "units"), [(alike, 16), (apart, 16), (rebuilt, 6)])
def test_losses_without_targets_stay_quiet(step: Any, units: int) -> None:
    model = net(units)
    train, held_out = DataLoader(Views(X[:800]), 32, shuffle=True), DataLoader(Views(X[800:]), 32)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    result = autotrainer.fit(
        model, train, held_out, step=step, optimizer=optimizer, epochs=8, budget=2.0, progress=False
    )
    assert result.status == "healthy", str(result.report())
