"""Losses of the steps between samples, of loops that compute them by functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import autotrainer
from autotrainer.backends.pytorch.runtime import backward_signal
from autotrainer.backends.pytorch.watching.losses.loss_tracker import StepCounter
from autotrainer.backends.pytorch.watching.losses.unsampled_loss import UnsampledLoss
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)
STEPS = 200
X = torch.linspace(-1, 1, 16)[:, None]
Y = X.sign()


@contextmanager
def every_31st_step(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Monitor, torch.optim.SGD]]:
    """Watch a model, of which few steps are sampled."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monkeypatch.setattr("autotrainer.monitoring.sampler.Sampler.due", lambda self, step: step % 31 == 0)
    monkeypatch.setattr("autotrainer.monitoring.sampler.Sampler.next_step", property(lambda self: 0))
    with autotrainer.watch(model, optimizer, epochs=1) as monitor:
        yield monitor, optimizer


def known(monitor: Monitor) -> dict[int, float]:
    steps, losses = monitor.history.losses
    return dict(zip(steps.tolist(), losses.tolist(), strict=True))


def test_losses_between_samples_are_those_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    losses = []
    with every_31st_step(model, monkeypatch) as (monitor, optimizer):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = F.mse_loss(model(X), Y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    found = known(monitor)
    first = 32  # two samples have confirmed it
    assert set(range(first, STEPS)) <= set(found)
    assert [found[step] for step in range(first, STEPS)] == losses[first:]
    assert not backward_signal._listeners


def accumulate(model: nn.Module, other: nn.Module) -> None:
    for rows in (slice(0, 8), slice(8, 16)):
        F.mse_loss(model(X[rows]), Y[rows]).backward()


def alternate(model: nn.Module, other: nn.Module) -> None:
    F.mse_loss(other(X), Y).backward()
    F.mse_loss(model(X), Y).backward()


def several_tensors(model: nn.Module, other: nn.Module) -> None:
    outputs = model(X)
    torch.autograd.backward([outputs.mean(), outputs.square().mean()])


@pytest.mark.parametrize("step", [accumulate, alternate, several_tensors])
def test_ambiguous_passes_are_not_read(
    step: Callable[[nn.Module, nn.Module], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    with every_31st_step(model, monkeypatch) as (monitor, optimizer):
        for _ in range(STEPS):
            optimizer.zero_grad()
            step(model, other)
            optimizer.step()
    assert all(at % 31 == 0 or at == STEPS - 1 for at in known(monitor))


def test_a_second_pass_between_samples_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    with every_31st_step(model, monkeypatch) as (monitor, optimizer):
        for at in range(STEPS):
            optimizer.zero_grad()
            (alternate if at == 50 else plain)(model, other)
            optimizer.step()
    found = known(monitor)
    assert {40, 49} <= set(found)
    assert not {50, 51, 70} & set(found)


def plain(model: nn.Module, other: nn.Module) -> None:
    F.mse_loss(model(X), Y).backward()


def test_the_first_loss_that_is_not_finite_is_known_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1, 1)
    with every_31st_step(model, monkeypatch) as (monitor, optimizer):
        for at in range(100):
            optimizer.zero_grad()
            F.mse_loss(model(X), Y * (float("nan") if at == 75 else 1)).backward()
            optimizer.step()
    nan = next(finding for finding in monitor.findings if finding.problem == "nonfinite")
    assert "75" in nan.message


def test_modes_of_the_user_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func: Callable[..., Tensor], types: object, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    model = nn.Linear(1, 1)
    with every_31st_step(model, monkeypatch) as (_, optimizer):
        for at in range(60):
            optimizer.zero_grad()
            loss = F.mse_loss(model(X), Y)
            if at in (40, 41):
                with Seen():
                    loss.backward()
            else:
                loss.backward()
            optimizer.step()
    assert "item" not in seen
    assert "detach" not in seen


def test_it_does_not_keep_listening_when_it_is_gone() -> None:
    listener = UnsampledLoss(StepCounter())
    for _ in range(2):
        listener.confirm("MseLossBackward0")
    assert len(backward_signal._listeners) == 1
    listener.stop()
    assert not backward_signal._listeners


def test_nothing_stays_patched_when_nobody_closes_it() -> None:
    before = torch.autograd.backward
    listener = UnsampledLoss(StepCounter())
    for _ in range(2):
        listener.confirm("MseLossBackward0")
    assert torch.autograd.backward is not before
    del listener
    nn.Linear(1, 1)(X).sum().backward()
    assert torch.autograd.backward is before
