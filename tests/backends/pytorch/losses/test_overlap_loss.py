from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.backends.pytorch.losses.overlap_loss import raw_overlap, share_outside

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MASK = (X > 0.5).float()
ALL = (1, 2, 3)


def dice(p: Tensor, t: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    overlap, size = ((p * t).sum(axes), p.sum(axes) + t.sum(axes)) if axes else ((p * t).sum(), p.sum() + t.sum())
    return (1 - (2 * overlap + 1) / (size + 1)).mean()


def jaccard(p: Tensor, t: Tensor) -> Tensor:
    p, t = p.view(-1), t.view(-1)
    overlap = (t * p).sum()
    return -torch.log((overlap + 1) / (p.sum() + t.sum() - overlap + 1).clamp(min=1e-3))


def by_class(p: Tensor, t: Tensor) -> Tensor:
    return sum((dice(p[:, c], t[:, c]) for c in range(3)), torch.zeros(())) / 3


def outputs(channels: int = 1) -> Tensor:
    torch.manual_seed(0)
    result: Tensor = nn.Conv2d(1, channels, 3, padding=1)(X)
    return result


CLASSES = F.one_hot((X[:, 0] > 0).long() + (X[:, 0] > 1).long(), 3).movedim(-1, 1).float()


@pytest.mark.parametrize(
    ("loss", "size", "alone"),
    [
        pytest.param(lambda: dice(outputs(), MASK), 256, True, id="dice"),
        pytest.param(lambda: dice(outputs(), MASK, ALL), 256, True, id="dice of each row"),
        pytest.param(lambda: dice(outputs().flatten(1), MASK.flatten(1), (1,)), 256, True, id="flat"),
        pytest.param(lambda: jaccard(outputs(), MASK), 256, True, id="jaccard"),
        pytest.param(lambda: by_class(outputs(3), CLASSES), 768, True, id="by class"),
        pytest.param(
            lambda: dice(o := outputs(), MASK) + F.binary_cross_entropy_with_logits(o, MASK), 256, False, id="and bce"
        ),
    ],
)
def test_overlap_of_raw_outputs_is_recognized(loss: Callable[[], Tensor], size: int, alone: bool) -> None:
    overlap = raw_overlap(loss())
    assert overlap is not None
    assert (overlap.size, overlap.alone) == (size, alone)


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda: dice(outputs().sigmoid(), MASK), id="probabilities"),
        pytest.param(lambda: by_class(outputs(3).softmax(1), CLASSES), id="softmax"),
        pytest.param(lambda: dice(outputs().clamp(0, 1), MASK), id="clamped"),
        pytest.param(lambda: dice(F.logsigmoid(outputs()).exp(), MASK), id="exponential of logarithms"),
        pytest.param(
            lambda: 1 - 2 * ((o := outputs()) * MASK).sum() / ((o * o).sum() + (MASK * MASK).sum()),
            id="squares: bounded",
        ),
        pytest.param(lambda: ((outputs() - MASK) ** 2 * MASK).sum() / MASK.sum(), id="mean over a mask"),
        pytest.param(lambda: dice(outputs(), X), id="no masks"),
        pytest.param(lambda: F.mse_loss(outputs(), MASK), id="no overlap"),
        pytest.param(lambda: torch.zeros(()), id="no graph"),
    ],
)
def test_other_losses_are_not(loss: Callable[[], Tensor]) -> None:
    assert raw_overlap(loss()) is None


def test_share_outside() -> None:
    assert share_outside(torch.tensor([0.0, 1.0, -0.1, 1.5])) == 0.25


class DiceLoss(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return dice(self.activation(outputs), targets)


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize(
    ("activation", "expected"), [(torch.Tensor.contiguous, ["error"]), (torch.sigmoid, []), (torch.Tensor.abs, [])]
)
def test_a_training_on_raw_outputs_gets_an_error(
    module: bool, activation: Callable[[Tensor], Tensor], expected: list[str]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    optimizer: Any = torch.optim.Adam(model.parameters(), 1e-3)
    loss_fn = DiceLoss(activation)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn if module else None, overhead=1) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            loss_fn.forward(model(X), MASK).backward() if not module else loss_fn(model(X), MASK).backward()
            optimizer.step()
    found = [f for f in monitor.findings if f.problem == "improper_output_activation"]
    assert [str(f.severity) for f in found] == expected
