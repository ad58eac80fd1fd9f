from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.backends.pytorch.losses.reordered_outputs import reordering

X = torch.randn(6, 12, 4, generator=torch.Generator().manual_seed(0))
LABELS = (X[..., 0] > 0).long() * 2
IMAGES = torch.randn(4, 1, 8, 6, generator=torch.Generator().manual_seed(1))


def outputs(classes: int = 5) -> Tensor:
    return nn.Linear(4, classes)(X)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda: F.cross_entropy(outputs().view(6, 5, 12), LABELS), id="view"),
        pytest.param(lambda: F.cross_entropy(outputs().reshape(6, 5, 12), LABELS, reduction="sum"), id="reshape"),
        pytest.param(
            lambda: F.nll_loss(F.log_softmax(nn.Conv2d(1, 5, 1)(IMAGES).permute(0, 2, 3, 1).reshape(4, 5, 8, 6), 1),
                               torch.zeros(4, 8, 6, dtype=torch.long)),
            id="images with the channels last",
        ),
    ],
)  # fmt: skip
def test_reshape_that_exchanges_axes(loss: Callable[[], Tensor]) -> None:
    found = reordering(loss())
    assert found is not None
    assert found.after[1] == 5


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda: F.cross_entropy(outputs().permute(0, 2, 1), LABELS), id="permute"),
        pytest.param(lambda: F.cross_entropy(outputs().transpose(1, 2).contiguous(), LABELS), id="transpose"),
        pytest.param(lambda: F.cross_entropy(outputs().view(-1, 5), LABELS.view(-1)), id="positions as rows"),
        pytest.param(lambda: F.cross_entropy(nn.Linear(48, 60)(X.view(6, 48)).view(6, 5, 12), LABELS), id="one layer"),
        pytest.param(lambda: F.cross_entropy(nn.Conv2d(1, 5, 1)(IMAGES), torch.zeros(4, 8, 6).long()), id="images"),
        pytest.param(lambda: F.mse_loss(outputs().view(6, 5, 12), torch.zeros(6, 5, 12)), id="another loss"),
    ],
)
def test_other_losses(loss: Callable[[], Tensor]) -> None:
    assert reordering(loss()) is None


@pytest.mark.parametrize("permuted", [False, True])
def test_in_a_watched_training(permuted: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 5)
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), 0.03), nn.CrossEntropyLoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=20) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            out = model(X)
            loss_fn(out.permute(0, 2, 1) if permuted else out.view(6, 5, 12), LABELS).backward()
            optimizer.step()
            monitor.end_epoch()
    found = [finding for finding in monitor.findings if "reordered_classes" in finding.evidence]
    assert bool(found) == (not permuted)
    if found:
        assert (found[0].problem, found[0].severity, found[0].repairs) == (
            "target_mismatch",
            "error",
            ("restore_axes",),
        )
