"""What becomes of units with equal initial weights in real trainings, which the verdict at the first step predicts."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import autotrainer
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)

DIGITS = load_digits()
X = torch.tensor(DIGITS.data / 16, dtype=torch.float32)
X = (X - X.mean(0)) / (X.std(0) + 1e-6)
Y = torch.tensor(DIGITS.target)


def network(first: float | str, second: float | None) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        if first == "equal rows":
            model[0].weight[:] = model[0].weight[:1].clone()
        else:
            nn.init.constant_(model[0].weight, float(first))
        nn.init.zeros_(model[0].bias)
        if second is not None:
            nn.init.constant_(model[2].weight, second)
            nn.init.zeros_(model[2].bias)
    return model


def train(model: nn.Module) -> tuple[Monitor, set[str], float]:
    """Return the monitor, the severities that the problem had on the way, and the accuracy."""
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), 2e-3), nn.CrossEntropyLoss()
    severities: set[str] = set()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=12, select="poor_initialization") as monitor:
        for _ in range(12):
            for rows in torch.randperm(len(X)).split(64):
                optimizer.zero_grad()
                loss_fn(model(X[rows]), Y[rows]).backward()
                optimizer.step()
            monitor.end_epoch()
            severities |= {finding.severity for finding in monitor.findings}
    with torch.no_grad():
        return monitor, severities, float((model(X).argmax(1) == Y).float().mean())


@pytest.mark.parametrize("first", [0.1, "equal rows"])
def test_equal_units_with_different_outgoing_weights_diverge(first: float | str) -> None:
    model = network(first, None)
    [found] = autotrainer.check(model, (X, Y), loss=nn.CrossEntropyLoss(), select="poor_initialization")
    assert found.severity == "warning"
    _, severities, accuracy = train(model)
    assert accuracy > 0.9
    assert len(torch.unique(model[0].weight, dim=0)) == 32
    assert "error" not in severities


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.1), (0.1, 0.0), (0.0, 0.0)])
def test_equal_units_with_equal_outgoing_weights_stay_equal(first: float, second: float) -> None:
    model = network(first, second)
    [found] = autotrainer.check(model, (X, Y), loss=nn.CrossEntropyLoss(), select="poor_initialization")
    assert found.severity == "error"
    _, severities, accuracy = train(model)
    assert accuracy < 0.5
    assert len(torch.unique(model[0].weight.round(decimals=4), dim=0)) == 1
    assert "error" in severities
