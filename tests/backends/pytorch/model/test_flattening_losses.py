"""A cross-entropy that flattens sequences by itself has its classes on the last axis; PyTorch's own has them on 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.backends.pytorch.model.loss_kinds import fitted_loss_info


class Flattening(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, input.shape[-1]), target.reshape(-1))


class PassingOn(nn.CrossEntropyLoss):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "axis"),
    [
        (Flattening(), (4, 12, 50), (4, 12), -1),
        (Flattening(), (4, 12, 50), (48,), -1),
        (PassingOn(), (4, 50, 12), (4, 12), 1),
        (PassingOn(), (4, 50, 5, 5), (4, 5, 5), 1),
        (Flattening(), (4, 12, 12), (4, 12), 1),  # both fit
        (Flattening(), (4, 50), (4,), 1),
        (nn.CrossEntropyLoss(), (4, 12, 50), (4, 12), 1),
        (nn.MSELoss(), (4, 12, 50), (4, 12), -1),
    ],
)
def test_axis_of_the_classes(loss: nn.Module, outputs: tuple[int, ...], targets: tuple[int, ...], axis: int) -> None:
    labels = torch.zeros(targets, dtype=torch.long)
    assert fitted_loss_info(loss, torch.zeros(outputs), labels).class_axis == axis


class Sequences:
    """Tokens of which each is followed by the next number."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20))
        self.x = torch.randint(0, 20, (64, 6))
        self.y = (self.x + 1) % 20
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.03)


@pytest.mark.parametrize("arrays", [True, False])
def test_check_reads_labels_of_the_last_axis(arrays: bool) -> None:
    training = Sequences()
    rows = torch.utils.data.TensorDataset(training.x, training.y)
    data: Any = (training.x.numpy(), training.y.numpy()) if arrays else torch.utils.data.DataLoader(rows, batch_size=8)
    assert autotrainer.check(training.model, data, loss=Flattening()) == []


def test_watch_reads_labels_of_the_last_axis() -> None:
    training, loss = Sequences(), Flattening()
    with autotrainer.watch(training.model, training.optimizer, loss_fn=loss, epochs=6, overhead=1.0) as monitor:
        for _ in range(6):
            for start in range(0, 64, 8):
                training.optimizer.zero_grad()
                loss(training.model(training.x[start : start + 8]), training.y[start : start + 8]).backward()
                training.optimizer.step()
            monitor.end_epoch()
    assert "target_mismatch" not in {finding.problem for finding in monitor.findings}
    assert monitor.context.loss.class_axis == -1
    assert monitor.context.output_units == 20
    assert monitor.history.scalar("accuracy")[-1] > 0.9


def test_fit_scores_by_the_accuracy_of_the_last_axis() -> None:
    training = Sequences()
    result = autotrainer.fit(
        training.model,
        (training.x.numpy(), training.y.numpy()),
        loss=Flattening(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03),
        epochs=20,
        repair=False,
        progress=False,
    )
    assert result.score > 0.9
