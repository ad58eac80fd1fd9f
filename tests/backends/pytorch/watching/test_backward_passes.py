"""What sampled steps show of the backward passes: their number, the scale of loss and gradient, terms of the loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR

import autotrainer
from autotrainer.backends.pytorch.losses.loss_terms import loss_terms
from autotrainer.backends.pytorch.optim.schedule_state import ScheduleState
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)

LAYER = nn.Linear(4, 3)
X, Y = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def entropy() -> Tensor:
    return F.cross_entropy(LAYER(X), Y)


def penalty() -> Tensor:
    return LAYER.weight.square().sum()


def square() -> Tensor:
    return F.mse_loss(LAYER(X), torch.ones(8, 3))


@pytest.mark.parametrize(
    ("loss", "factor", "terms"),
    [
        (lambda: entropy() / 4, 0.25, {}),
        (lambda: entropy() * torch.tensor(1024.0) / 4, 256, {}),
        (lambda: -(entropy() + square()), -1, {"cross_entropy": entropy, "mse_loss": square}),
        (
            lambda: (entropy() + 0.1 * penalty()) / 2,
            0.5,
            {"cross_entropy": entropy, "remainder": lambda: 0.1 * penalty()},
        ),
        (lambda: sum([entropy(), 3 * square()]), 1, {"cross_entropy": entropy, "mse_loss": lambda: 3 * square()}),
        (
            lambda: torch.stack([entropy(), square()]).mean(),
            1,
            {"cross_entropy": lambda: entropy() / 2, "mse_loss": lambda: square() / 2},
        ),
        (lambda: entropy() - entropy(), 1, {"cross_entropy": entropy, "cross_entropy 2": lambda: -entropy()}),
        (lambda: sum(entropy() for _ in range(9)) / 9, 1 / 9, {}),
        (lambda: penalty() + square() * LAYER.bias.sum(), 1, {}),
        (lambda: F.cross_entropy(LAYER(X), Y, reduction="sum") / 8, float("nan"), {}),
        (lambda: (LAYER(X) ** 2).sum() / 8, float("nan"), {}),
        (
            lambda: F.cross_entropy(LAYER(X), Y, reduction="sum") + penalty(),
            float("nan"),
            {"cross_entropy": lambda: F.cross_entropy(LAYER(X), Y, reduction="sum"), "remainder": penalty},
        ),
    ],
)
def test_losses_are_taken_apart(
    loss: Callable[[], Tensor], factor: float, terms: dict[str, Callable[[], Tensor]]
) -> None:
    parts = loss_terms(loss())
    assert float(parts.factor) == pytest.approx(factor, nan_ok=True)
    expected = {name: float(term().detach()) for name, term in terms.items()}
    assert {name: float(value) for name, value in parts.terms.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("combine", "factor"),
    [
        (lambda value: value, 1),
        (lambda value: penalty() + value + 0.5, 1),
        (lambda value: (value + penalty()) / 4, 0.25),
        (lambda value: (2 * value - penalty()) / 4, 0.5),
        (lambda value: value * LAYER.bias.sum(), None),
    ],
)
def test_factor_on_the_loss_of_a_module(combine: Callable[[Tensor], Tensor], factor: float | None) -> None:
    optimizer, module = torch.optim.SGD(LAYER.parameters(), 1e-9), nn.L1Loss()
    with autotrainer.watch(LAYER, optimizer, loss_fn=module, select=(), overhead=1.0) as monitor:
        combine(module(LAYER(X), torch.ones(8, 3))).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not monitor._failed
    if factor is not None:
        assert monitor.history.scalar("loss_factor")[0] == pytest.approx(factor)
    assert not monitor.history.term_names


def test_calls_of_a_loss_module_are_terms() -> None:
    optimizer, module = torch.optim.SGD(LAYER.parameters(), 1e-9), nn.L1Loss()
    with autotrainer.watch(LAYER, optimizer, loss_fn=module, select=(), overhead=1.0) as monitor:
        first, second = module(LAYER(X), torch.ones(8, 3)), module(LAYER(X), torch.zeros(8, 3))
        ((first + 0.1 * second) / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not monitor._failed
    values = [float(monitor.history.term(name)[1][0]) for name in monitor.history.term_names]
    assert values == pytest.approx([float(first.detach()), 0.1 * float(second.detach())])


class Training:
    """Steps of a watched model, all of which are measured."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01)
        self.monitor: Monitor = autotrainer.watch(self.model, self.optimizer, loss_fn=None, select=(), overhead=1.0)

    def loss(self) -> Tensor:
        return F.cross_entropy(self.model(X), Y)

    def column(self, name: str) -> float:
        assert not self.monitor._failed
        return float(self.monitor.history.scalar(name)[-1])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_passes_since_the_gradients_were_reset_count(set_to_none: bool) -> None:
    training = Training()
    for count in (1, 3, 2):
        training.loss().backward()
        training.optimizer.zero_grad(set_to_none=set_to_none)
        for _ in range(count):
            (training.loss() / count).backward()
        torch.autograd.grad(training.loss(), list(training.model.parameters()))
        training.optimizer.step()
        assert training.column("backward_passes") == count
        assert training.column("loss_factor") == pytest.approx(1 / count)
        assert training.column("gradient_factor") == pytest.approx(1)


def test_gradients_that_are_reset_before_a_step_are_counted() -> None:
    training = Training()
    for _ in range(3):
        training.optimizer.zero_grad()
        training.loss().backward()
    training.optimizer.step()
    assert training.column("discarded_passes") == 2
    assert training.column("backward_passes") == 1
    training.loss().backward()
    training.optimizer.zero_grad()
    training.optimizer.step()
    assert training.column("gradient_factor") == 0


def test_clipping_and_division_show_in_the_gradient() -> None:
    training = Training()
    training.loss().backward()
    norm = float(nn.utils.clip_grad_norm_(training.model.parameters(), 0.01))
    training.optimizer.step()
    assert training.column("gradient_factor") == pytest.approx(0.01 / norm, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_the_loss_scale_is_left_out(fused: bool) -> None:
    training = Training()
    optimizer = torch.optim.SGD(training.model.parameters(), 0.01, fused=fused)
    training.monitor.close()
    training.monitor = autotrainer.watch(training.model, optimizer, loss_fn=None, overhead=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(2):
            scaler.scale(training.loss() / 2).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    assert training.column("loss_factor") == pytest.approx(0.5)
    assert training.column("gradient_factor") == pytest.approx(1)


def test_reported_terms_are_kept() -> None:
    training = Training()
    for number in range(3):
        loss = training.loss()
        training.monitor.log(loss=loss, losses={"a": loss, "b": float("nan") if number == 2 else 0.5})
        loss.backward()
        training.optimizer.step()
    steps, values = training.monitor.history.term("b")
    assert steps.tolist() == [0, 1, 2]
    assert values.tolist() == [0.5, 0.5, float("inf")]
    with pytest.raises(autotrainer.errors.InputError, match="by name"):
        training.monitor.log(losses=[1.0])  # type: ignore[arg-type]


def test_the_first_term_that_is_not_finite_is_kept_between_samples() -> None:
    training = Training()
    training.monitor.sampler.stop()
    for number in range(6):
        loss = training.loss() * (1.0 if number < 3 else float("nan"))
        bad = {"a": 1.0 if number < 4 else float("nan"), "b": loss}
        training.monitor.log(loss=loss, losses=bad)
        training.optimizer.step()
    training.monitor.close()
    history = training.monitor.history
    assert [history.term(name)[1].tolist()[-1:] for name in ("a", "b")] == [[1.0], [float("inf")]]


def _linear(step: int, *, num_training_steps: int) -> float:
    return 1 - step / num_training_steps


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (lambda o: OneCycleLR(o, 0.1, total_steps=50), 50),
        (lambda o: LinearLR(o, 0.1), None),
        (lambda o: LinearLR(o, 1.0, 0.1, total_iters=30), 30),
        (lambda o: LambdaLR(o, lambda step: 1.0), None),
        (lambda o: LambdaLR(o, functools.partial(_linear, num_training_steps=70)), 70),
        (lambda o: ChainedScheduler([ConstantLR(o), LinearLR(o, 1.0, 0.1, total_iters=30)]), None),
        (lambda o: SequentialLR(o, [LinearLR(o), OneCycleLR(o, 0.1, total_steps=50)], [10]), 60),
    ],
)
def test_the_scheduler_of_an_optimizer_is_found(make: Callable[[Any], Any], length: int | None) -> None:
    optimizer = torch.optim.SGD(LAYER.parameters(), 0.1)
    other = make(torch.optim.SGD(LAYER.parameters(), 0.1))
    scheduler = make(optimizer)
    for read in (dir, vars):  # `vars` moves the attributes of an object into a dictionary of their own
        read(scheduler)
        state = ScheduleState(optimizer)
        state.find()
        assert state.name == type(scheduler).__name__
        assert state.length == length
        before = state.steps
        optimizer.step()
        scheduler.step()
        assert state.steps == before + 1
    assert other is not scheduler
