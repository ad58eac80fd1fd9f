"""Custom losses, whose kind shows only in their values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer import Finding

torch.set_num_threads(1)

RNG = torch.Generator().manual_seed(0)
X = torch.randn(240, 4, generator=RNG)
LABELS = (X.sum(1, keepdim=True) > 0).float()

JUDGES = ("improper_loss", "target_mismatch")

Loss = Callable[[Tensor, Tensor], Tensor]


class Own(nn.Module):
    """A loss that no framework knows."""

    def __init__(self, function: Loss) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.function(outputs, targets)


def _entropy(p: Tensor, t: Tensor) -> Tensor:
    p = p.clamp(1e-7, 1 - 1e-7)
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def _entropy_of_logits(z: Tensor, t: Tensor) -> Tensor:
    return (F.softplus(z) - t * z).mean()


def _normalized(p: Tensor, t: Tensor) -> Tensor:
    return -(t * (p / p.sum(-1, keepdim=True)).clamp(1e-7, 1 - 1e-7).log()).sum(-1).mean()


def _all_pairs(z: Tensor, t: Tensor) -> Tensor:
    return F.softplus(-(z - z.T) * (t - t.T)).mean()


def _found(loss: Loss, targets: Tensor, *, logits: bool, silent_start: bool = False) -> list[Finding]:
    torch.manual_seed(0)
    head = nn.Linear(16, 1)
    if silent_start:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), head, nn.Identity() if logits else nn.Sigmoid())
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), 0.01), Own(loss)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=5, overhead=1.0, select=JUDGES) as monitor:
        for _ in range(5):
            for rows in torch.randperm(240, generator=torch.Generator().manual_seed(1)).reshape(10, 24):
                optimizer.zero_grad()
                loss_fn(model(X[rows]), targets[rows]).backward()
                optimizer.step()
            monitor.end_epoch()
    return monitor.findings


@pytest.mark.parametrize(
    ("loss", "targets", "logits", "problem"),
    [
        pytest.param(_entropy, LABELS + 1, False, "improper_loss", id="labels 1 and 2"),
        pytest.param(_entropy_of_logits, LABELS + 1, True, "improper_loss", id="labels 1 and 2, logits"),
        pytest.param(_entropy_of_logits, 2 * LABELS - 1, True, "improper_loss", id="labels -1 and 1"),
        pytest.param(_normalized, LABELS, False, "improper_loss", id="one unit normalized over itself"),
        pytest.param(_entropy, LABELS[:, 0], False, "target_mismatch", id="flat targets"),
        pytest.param(_entropy_of_logits, LABELS[:, 0], True, "target_mismatch", id="flat targets, logits"),
        pytest.param(lambda z, t: (z - t).abs().mean(), LABELS[:, 0], True, "target_mismatch", id="flat, absolute"),
    ],
)
def test_custom_loss_faults_are_detected(loss: Loss, targets: Tensor, logits: bool, problem: str) -> None:
    found = _found(loss, targets, logits=logits)
    assert [(f.problem, f.severity) for f in found] == [(problem, "error")]
    assert found[0].step < 10


@pytest.mark.parametrize("silent_start", [False, True])
@pytest.mark.parametrize(
    ("loss", "targets", "logits"),
    [
        pytest.param(_entropy, LABELS, False, id="binary cross-entropy"),
        pytest.param(lambda p, t: _entropy(p, t - 1), LABELS + 1, False, id="labels 1 and 2, shifted by the loss"),
        pytest.param(lambda z, t: F.softplus(-t * z).mean(), 2 * LABELS - 1, True, id="logistic, labels -1 and 1"),
        pytest.param(lambda z, t: F.relu(1 - t * z).mean(), 2 * LABELS - 1, True, id="hinge"),
        pytest.param(lambda p, t: _entropy(p, 0.9 * t + 0.05), LABELS, False, id="smoothed labels"),
        pytest.param(lambda p, t: _entropy(p.squeeze(1), t), LABELS[:, 0], False, id="squeezed by the loss"),
        pytest.param(lambda z, t: (z[:, 0] - t).square().mean(), LABELS[:, 0], True, id="squeezed, squared error"),
        pytest.param(lambda z, t: (z.exp() - t * z).mean(), LABELS + 1, True, id="Poisson, counts"),
        pytest.param(_all_pairs, LABELS, True, id="ranks of all pairs"),
        pytest.param(lambda z, t: (z * (1 - 2 * t)).mean(), LABELS, True, id="critic"),
    ],
)
def test_correct_custom_losses_have_no_findings(loss: Loss, targets: Tensor, logits: bool, silent_start: bool) -> None:
    assert not _found(loss, targets, logits=logits, silent_start=silent_start)


class Normalized(nn.Module):
    """A loss that is divided by its moving average, which every call moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.ones(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = (outputs - targets).square().mean()
        self.average.mul_(0.9).add_(0.1 * loss.detach())
        return loss / self.average


def test_evaluations_leave_the_state_of_a_loss_to_the_training() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def weights(rows: int) -> Tensor:
        """Return the weights after a training that is evaluated on so many rows."""
        result = autotrainer.fit(
            model,
            (X, X[:, :1]),
            validation_data=(X[:rows], X[:rows, :1]),
            loss=Normalized(),
            optimizer=lambda parameters: torch.optim.SGD(parameters, 1e-2),
            epochs=3,
            repair=False,
            progress=False,
        )
        return result.model.weight

    assert torch.equal(weights(40), weights(120))
