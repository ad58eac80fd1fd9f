"""Losses of single entries that a program reduces itself, beside other terms, as that of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.backends.pytorch.losses.loss_terms import loss_terms
from autotrainer.backends.pytorch.losses.main_term import main_term
from autotrainer.backends.pytorch.losses.returned_tensors import returned_tensors

TARGETS = torch.linspace(0, 1, 24).reshape(6, 4)

Loss = Callable[[Tensor], Tensor]


def entries(p: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(p, TARGETS, reduction="none")


REDUCED: list[Any] = [
    pytest.param(lambda p: entries(p).mean(), id="mean"),
    pytest.param(lambda p: entries(p).sum(), id="sum"),
    pytest.param(lambda p: entries(p).sum(1).mean(), id="mean of sums"),
    pytest.param(lambda p: entries(p).sum(1).sum(), id="sum of sums"),
    pytest.param(lambda p: entries(p).mean(1).mean(), id="mean of means"),
    pytest.param(lambda p: F.mse_loss(p, TARGETS, reduction="none").sum(-1).mean(), id="squared error"),
    pytest.param(lambda p: ((p - TARGETS) ** 2).sum(1).mean(), id="power"),
]


def outputs() -> Tensor:
    return torch.linspace(-1, 1, 24, requires_grad=True).reshape(6, 4) * 2.0


def number(value: Tensor) -> float:
    return float(value.detach())


@pytest.mark.parametrize("loss", REDUCED)
def test_value_of_the_term(loss: Loss) -> None:
    made = outputs()
    terms = loss_terms(loss(made) + 0.3 * made.exp().sum(1).mean()).terms
    name, rest = terms
    assert rest == "remainder"
    assert number(terms[name]) == pytest.approx(number(loss(made)))
    assert number(terms[rest]) == pytest.approx(number(0.3 * made.exp().sum(1).mean()), rel=1e-4)


@pytest.mark.parametrize("loss", REDUCED)
def test_outputs_and_targets_beside_a_penalty(loss: Loss) -> None:
    made = outputs()
    found = main_term(loss(made) + 0.1 * made.square().mean(), returned_tensors(made))
    assert found is not None
    assert found.outputs.tolist() == made.tolist()
    assert found.targets == pytest.approx(TARGETS)
    assert found.rest is not None
    assert number(found.rest) == pytest.approx(number(0.1 * made.square().mean()), rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda p: entries(p).mean(1).sum(), id="sum of means"),
        pytest.param(lambda p: (entries(p) * torch.rand(6, 4)).mean(), id="weighted entries"),
        pytest.param(
            lambda p: F.binary_cross_entropy_with_logits(p, TARGETS, torch.rand(4), reduction="none").mean(),
            id="weights",
        ),
        pytest.param(lambda p: (p**2).mean(), id="squares of outputs"),
    ],
)
def test_others_have_no_value(loss: Loss) -> None:
    made = outputs()
    assert loss_terms(loss(made) + made.exp().sum(1).mean()).terms == {}


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code), mean, log_variance


@pytest.mark.parametrize(
    ("summed", "weight", "collapses"),
    [
        pytest.param(False, 1.0, True, id="error averaged, divergence summed"),
        pytest.param(True, 50.0, True, id="too large a weight"),
        pytest.param(True, 0.1, False, id="both summed"),
    ],
)
def test_a_divergence_that_is_minimized_in_place_of_the_error(summed: bool, weight: float, collapses: bool) -> None:
    torch.manual_seed(0)
    x = torch.sigmoid(3 * torch.randn(400, 3) @ torch.randn(3, 32))
    model = Variational()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    with autotrainer.watch(model, optimizer, epochs=30) as monitor:
        for _ in range(30):
            for rows in torch.randperm(400).split(40):
                logits, mean, log_variance = model(x[rows])
                error = F.binary_cross_entropy_with_logits(logits, x[rows], reduction="none")
                divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
                loss = (error.sum(1).mean() if summed else error.mean()) + weight * divergence
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            monitor.end_epoch()
    named = {finding.problem: finding.severity for finding in monitor.findings}
    assert ("loss_term_imbalance" in named) is collapses
    assert ("error" in named.values()) is collapses
