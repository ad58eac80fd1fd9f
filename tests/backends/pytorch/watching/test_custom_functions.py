"""The backward passes of the user's own functions, checked in watched trainings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

import autotrainer

torch.set_num_threads(1)

X = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


class Square(Function):
    factor = 2.0
    calls = 0

    @classmethod
    def count(cls) -> None:
        Square.calls += 1

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx._forward_cls.count()
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return ctx._forward_cls.factor * ctx.saved_tensors[0] * grad


class WrongSquare(Square):
    factor = 1.0


class Entropy(Function):
    factor = 1.0

    @staticmethod
    def forward(scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        scores, labels = ctx.saved_tensors
        error = scores.softmax(1) - F.one_hot(labels, scores.shape[1])
        return grad * ctx._forward_cls.factor * error / len(labels), None


class WrongEntropy(Entropy):
    factor = -1.0


class Reversal(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return -grad


class Network(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(self.function(self.first(x)))
        return scores


def train(function: Any, loss: Any, **options: Any) -> tuple[list[Tensor], Any]:
    torch.manual_seed(0)
    model = Network(function.apply)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    monitor = autotrainer.watch(model, optimizer, select="wrong_backward", overhead=1.0, **options) if options else None
    for _ in range(2):
        for rows in torch.randperm(128).split(32):
            optimizer.zero_grad()
            loss(model(X[rows]), Y[rows]).backward()
            optimizer.step()
    if monitor is not None:
        monitor.close()
    return [p.detach() for p in model.parameters()], monitor


@pytest.mark.parametrize(
    ("function", "loss", "name"),
    [
        (Square, F.cross_entropy, ""),
        (WrongSquare, F.cross_entropy, "WrongSquare"),
        (Square, Entropy.apply, ""),
        (Square, WrongEntropy.apply, "WrongEntropy"),
        (Reversal, F.cross_entropy, ""),
    ],
)
def test_wrong_ones_are_named_and_the_training_stays_the_same(function: Any, loss: Any, name: str) -> None:
    forward = Square.__dict__["forward"]
    plain, _ = train(function, loss)
    watched, monitor = train(function, loss, probe=True)
    assert all(map(torch.equal, plain, watched))
    assert Square.__dict__["forward"] is forward
    assert "forward" not in vars(WrongSquare)
    assert [name in finding.message for finding in monitor.findings] == [True] * bool(name)


def test_functions_are_not_called_without_probes() -> None:
    Square.calls = 0
    train(WrongSquare, F.cross_entropy, probe=False)
    assert Square.calls == 8
