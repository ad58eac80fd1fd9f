"""The axis of the classes: 1 for PyTorch's own cross-entropy, the last one for one that flattens sequences itself."""

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
        (nn.CrossEntropyLoss(), (4, 50, 12), (4, 12), 1),
        (nn.CrossEntropyLoss(), (4, 12, 50), (4, 12), -1),  # which it refuses
        (nn.MSELoss(), (4, 12, 50), (4, 12), -1),
    ],
)
def test_axis_of_the_classes(loss: nn.Module, outputs: tuple[int, ...], targets: tuple[int, ...], axis: int) -> None:
    labels = torch.zeros(targets, dtype=torch.long)
    assert fitted_loss_info(loss, torch.zeros(outputs), labels).class_axis == axis


@pytest.mark.parametrize(("outputs", "axis"), [((8, 12, 5), -1), ((8, 5, 12), 1), ((8, 5, 5), 1), ((8, 9, 7, 5), -1)])
def test_axis_of_one_hot_rows(outputs: tuple[int, ...], axis: int) -> None:
    places = outputs[:-1] if axis < 0 else (outputs[0], *outputs[2:])
    rows = nn.functional.one_hot(torch.randint(0, 5, places), 5).float()
    targets = rows if axis < 0 else rows.movedim(-1, 1)
    assert fitted_loss_info(nn.CrossEntropyLoss(), torch.zeros(outputs), targets).class_axis == axis


class Sequences:
    """Tokens of which each is followed by the next number."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 20))
        self.x = torch.randint(0, 20, (64, 6))
        self.y = (self.x + 1) % 20
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.03)


@pytest.mark.parametrize(("dimension", "axis"), [(1, 1), (-1, -1)])
def test_axis_of_soft_labels(dimension: int, axis: int) -> None:
    """Probabilities sum to 1 but for rounding."""
    targets = torch.randn(8, 5, 7, generator=torch.Generator().manual_seed(0)).softmax(dimension)
    assert fitted_loss_info(nn.CrossEntropyLoss(), torch.zeros(8, 5, 7), targets).class_axis == axis


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


@pytest.mark.parametrize("one_hot", [False, True])
def test_fit_repairs_classes_in_the_last_dimension(one_hot: bool) -> None:
    training = Sequences()
    y = nn.functional.one_hot(training.y, 20).float() if one_hot else training.y
    result = autotrainer.fit(
        training.model,
        (training.x.numpy(), y.numpy()),
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03),
        epochs=20,
        progress=False,
    )
    assert "movedim(-1, 1)" in result.findings[0].message
    assert result.metric == "accuracy"
    assert result.score > 0.9
    assert one_hot or result.status == "repaired"


@pytest.mark.parametrize(("last", "problems"), [(True, {"target_mismatch"}), (False, set())])
def test_watch_names_one_hot_rows_in_the_last_dimension(last: bool, problems: set[str]) -> None:
    training, loss = Sequences(), nn.CrossEntropyLoss()
    y = nn.functional.one_hot(training.y, 20).float()
    with autotrainer.watch(training.model, training.optimizer, loss_fn=loss, epochs=6, overhead=1.0) as monitor:
        for _ in range(6):
            for start in range(0, 64, 8):
                training.optimizer.zero_grad()
                outputs, targets = training.model(training.x[start : start + 8]), y[start : start + 8]
                value = loss(outputs, targets) if last else loss(outputs.movedim(-1, 1), targets.movedim(-1, 1))
                value.backward()
                training.optimizer.step()
            monitor.end_epoch()
    assert {finding.problem for finding in monitor.findings if finding.severity == "error"} & {
        "target_mismatch"
    } == problems
