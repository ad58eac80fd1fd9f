"""Loops whose gradients come from `torch.func` or `torch.autograd.grad`, and optimizers that are not of PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

import autotrainer
from autotrainer.errors import InputError

X, Y = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.ones(32, 1)


class Functional(torch.optim.Optimizer):
    """Takes gradients as arguments: no parameter ever has one."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.gradients: list[Tensor] = []

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for parameter, gradient in zip(self.param_groups[0]["params"], self.gradients, strict=True):
                parameter -= self.param_groups[0]["lr"] * gradient


def transformed(model: nn.Module) -> list[Tensor]:
    """Return gradients by `torch.func.grad`."""

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(functional_call(model, weights, (X,)), Y)

    return list(grad(loss)({name: p.detach() for name, p in model.named_parameters()}).values())


def assigned(model: nn.Module, optimizer: Any) -> None:
    for parameter, gradient in zip(model.parameters(), transformed(model), strict=True):
        parameter.grad = gradient
    optimizer.step()


def differentiated(model: nn.Module, optimizer: Any) -> None:
    loss = F.mse_loss(model(X), Y)
    for parameter, gradient in zip(
        model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
    ):
        parameter.grad = gradient
    optimizer.step()


def passed_on(model: nn.Module, optimizer: Any) -> None:
    optimizer.gradients = transformed(model)
    optimizer.step()


def without_optimizer(model: nn.Module, optimizer: Any) -> None:
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), transformed(model), strict=True):
            parameter -= 0.1 * gradient


def called_functionally(model: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    F.mse_loss(functional_call(model, dict(model.named_parameters()), (X,)), Y).backward()
    optimizer.step()


CHANGES = "No gradient was observed: the weights change"
TRANSFORM = "No loss was observed, as the model is called within a transform of torch.func"


@pytest.mark.parametrize(
    ("step", "told", "gradients"),
    [
        (assigned, [TRANSFORM], True),
        (differentiated, ["No loss was observed: the loss passed to watch (mse_loss) was not called where"], True),
        (passed_on, [TRANSFORM, CHANGES], False),
        (without_optimizer, ["No step of the optimizer was observed: the model is called within a transform"], False),
        (called_functionally, [], True),
    ],
)
def test_what_is_said_is_true(
    step: Callable[[nn.Module, Any], None], told: list[str], gradients: bool, caplog: pytest.LogCaptureFixture
) -> None:
    states = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = Functional(model.parameters()) if step is passed_on else torch.optim.SGD(model.parameters(), 0.1)
        with caplog.at_level(logging.INFO, "autotrainer"):
            monitor = autotrainer.watch(model, optimizer, loss_fn=F.mse_loss, select=()) if watched else None
            for _ in range(12):
                step(model, optimizer)
            if monitor is not None:
                monitor.close()
        states.append(list(model.parameters()))
    assert all(torch.equal(plain, watched) for plain, watched in zip(*states, strict=True))
    messages = [record.getMessage() for record in caplog.records]
    assert [next(text for text in told if message.startswith(text)) for message in messages] == told
    assert monitor is not None
    assert bool(np.isfinite(monitor.history.scalar("grad_norm")).any()) == gradients


class Lookalike:
    """Steps and has groups of parameters, but runs no hooks."""

    def __init__(self, parameters: Any) -> None:
        self.param_groups = [{"params": list(parameters), "lr": 0.1}]

    def step(self) -> None:
        raise NotImplementedError


def test_an_optimizer_of_a_class_of_its_own_is_told_in_one_line() -> None:
    model = nn.Linear(4, 1)
    with pytest.raises(InputError, match="not Lookalike: its steps can't be observed; pass the one inside it") as error:
        autotrainer.watch(model, Lookalike(model.parameters()))
    assert "\n" not in str(error.value)


def test_a_wrapper_is_watched_by_the_optimizer_inside_it() -> None:
    model = nn.Linear(4, 1)
    wrapper: Any = Lookalike(model.parameters())
    wrapper.optimizer = torch.optim.SGD(wrapper.param_groups, 0.1)
    wrapper.step = wrapper.optimizer.step
    with autotrainer.watch(model, wrapper, loss_fn=F.mse_loss, select=()) as monitor:
        called_functionally(model, type("Loop", (), {"zero_grad": wrapper.optimizer.zero_grad, "step": wrapper.step}))
    assert monitor.history.steps.tolist() == [0]
