from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

from autotrainer.backends.pytorch.probing.gradient_check import backward_error

X, W = torch.linspace(-2, 2, 24).reshape(4, 6), torch.linspace(-1, 1, 18).reshape(6, 3)


class Swish(Function):
    """x · sigmoid(x), times ``factor`` in the backward pass, and without one term if ``forgets``."""

    factor, forgets = 1.0, False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @classmethod
    def derivative(cls, x: Tensor) -> Tensor:
        s = x.sigmoid()
        return cls.factor * (s if cls.forgets else s + x * s * (1 - s))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * ctx._forward_cls.derivative(*ctx.saved_tensors)


class Reversed(Swish):
    factor = -1.0


class Doubled(Swish):
    factor = 2.0


class Forgetful(Swish):
    forgets = True


class Product(Function):
    """x @ w, in the style with ``setup_context``; ``scale`` on the gradient of w."""

    scale = 1.0

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x @ w

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, w = ctx.saved_tensors
        return grad @ w.T, ctx._forward_cls.scale * (x.T @ grad)


class MeanProduct(Product):
    scale = 1 / 4


class Relu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad * (ctx.saved_tensors[0] > 0)


class Passed(Function):
    """The gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad


class Identity(Passed):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return -0.5 * grad.clamp(-1e-3, 1e-3)


class Clamp(Passed):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return 2 * grad


class Spike(Passed):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x)


class Fake(Passed):
    """Quantization with a learned step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(x, step)
        return (x / step).round() * step

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, step = ctx.saved_tensors
        return grad, (grad * ((x / step).round() - x / step)).sum() * 0.1


class Noise(Passed):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Stopped(Passed):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("function", "arguments", "ratio"),
    [(Reversed, (X,), -1), (Doubled, (X,), 2), (Forgetful, (X,), math.nan), (MeanProduct, (X, W), 0.25)],
)
def test_wrong_ones_are_found(function: Any, arguments: tuple[Tensor, ...], ratio: float) -> None:
    error = backward_error(function, arguments, [True] * len(arguments))
    assert error is not None
    assert error.ratio == pytest.approx(ratio, rel=1e-3, nan_ok=True)
    assert error.error > 0.01


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (Swish, (X,)),
        (Product, (X, W)),
        (Relu, (X,)),
        pytest.param(Passed, (X,), id="straight-through rounding"),
        pytest.param(Identity, (X,), id="reversed and clipped gradient"),
        pytest.param(Clamp, (X,), id="gradient of saturated entries"),
        pytest.param(Spike, (X,), id="surrogate gradient"),
        pytest.param(Fake, (X, torch.tensor(0.3)), id="fake quantization"),
        pytest.param(Noise, (X,), id="random numbers"),
        pytest.param(Stopped, (X,), id="no gradient"),
    ],
)
def test_right_and_deliberate_ones_are_left_alone(function: Any, arguments: tuple[Tensor, ...]) -> None:
    assert backward_error(function, arguments, [True] * len(arguments)) is None


class WithStatistics(Function):
    """A softmax that also returns its normalizer, whose gradient is not taken."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y, norm = x.softmax(-1), x.logsumexp(-1)
        ctx.save_for_backward(y)
        return y, norm

    @staticmethod
    def backward(ctx: Any, grad: Any, _: Any) -> Any:
        (y,) = ctx.saved_tensors
        return y * (grad - (grad * y).sum(-1, keepdim=True))


class FusedLoss(Function):
    """A loss that computes its gradient in the forward pass, for a loss of weight 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(2 * x / x.numel())
        return x.square().mean()

    @staticmethod
    def backward(ctx: Any, _: Any) -> Any:
        return ctx.saved_tensors[0]


@pytest.mark.parametrize("function", [WithStatistics, FusedLoss])
def test_gradients_that_are_not_taken_do_not_count(function: Any) -> None:
    assert backward_error(function, (X,), [True]) is None


def test_inputs_without_gradients_are_not_checked() -> None:
    assert backward_error(MeanProduct, (X, W), [True, False]) is None
