"""Parameters that outputs depend on, but that neither the model nor an optimizer has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer

torch.set_num_threads(1)


class Net(nn.Module):
    """Has a hidden layer from one of several places."""

    def __init__(self, hidden: Callable[[], list[nn.Module]]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)
        self.hidden = hidden()
        self.make = hidden if not self.hidden else list

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.last(x)  # type: ignore[no-any-return]


class Anew(Net):
    """Makes its hidden layer in each pass."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(nn.Linear(16, 16)(torch.relu(self.first(x)))))  # type: ignore[no-any-return]


def layers() -> list[nn.Module]:
    return [nn.Linear(16, 16)]


def frozen() -> list[nn.Module]:
    return [layer.requires_grad_(False) for layer in layers()]


@pytest.mark.parametrize(
    ("make", "others", "expected"),
    [
        pytest.param(lambda: Net(layers), False, 272, id="a plain list"),
        pytest.param(lambda: Anew(list), False, 272, id="made in forward"),
        pytest.param(lambda: Net(lambda: nn.ModuleList(layers())), False, 0, id="a module list"),  # type: ignore[arg-type,return-value]
        pytest.param(lambda: Net(frozen), False, 0, id="frozen"),
        pytest.param(lambda: Net(layers), True, 0, id="another optimizer trains it"),
    ],
)
def test_parameters_outside_of_the_model(make: Callable[[], Net], others: bool, expected: int) -> None:
    torch.manual_seed(0)
    model = make()
    x, y = torch.randn(32, 4), torch.arange(32) % 2
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    other = torch.optim.SGD(model.hidden[0].parameters(), 0.1) if others else None
    with autotrainer.watch(model, optimizer, select=["parameters_not_optimized"]) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if other is not None:
                other.step()
                other.zero_grad()
    assert monitor.history.scalar("outside_parameters")[-1] == expected
    assert [finding.evidence["parameters"] for finding in monitor.findings] == ([expected] if expected else [])
