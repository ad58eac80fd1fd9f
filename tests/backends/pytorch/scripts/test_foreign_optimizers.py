"""Trainings with an optimizer of fastai, of which the part that counts is copied here: fastai is no test dependency."""

from __future__ import annotations

import sys
from collections import defaultdict
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotrainer.api.script import Trainings, watched_frameworks
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)

STEPS = 40


def sgd_step(p: Tensor, lr: float, **_: Any) -> None:
    assert p.grad is not None
    p.data.add_(p.grad.data, alpha=-lr)


class Optimizer:
    """That of fastai 2.8: lists of parameters, their settings, and functions that a step calls for each parameter."""

    def __init__(self, parameters: list[Tensor], lr: float, broken: bool = False) -> None:
        self.param_lists, self.hypers = [parameters], [{} if broken else {"lr": lr, "mom": 0.9, "wd": 0.0}]
        self.cbs, self.state, self.lr = [sgd_step], defaultdict[Tensor, Any](dict), lr

    def zero_grad(self) -> None:
        for p in self.param_lists[0]:
            if p.grad is not None:
                p.grad.zero_()

    def step(self) -> None:
        for p in self.param_lists[0]:
            if p.grad is not None:
                sgd_step(p, self.lr)


def script(lr: float, broken: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer, loss_fn = Optimizer(list(net.parameters()), lr, broken), nn.CrossEntropyLoss()
    for _ in range(STEPS):
        x = torch.randn(16, 8)
        loss_fn(net(x), (x[:, 0] > x[:, 1]).long()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net


def run(lr: float, broken: bool = False) -> tuple[nn.Module, list[Monitor]]:
    trainings = Trainings({})
    with watched_frameworks(trainings):
        net = script(lr, broken)
        return net, [monitor for _, monitor in trainings.close(finished=True)]


@pytest.fixture(autouse=True)
def _fastai(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fastai.optimizer")
    vars(module)["Optimizer"] = Optimizer
    monkeypatch.setitem(sys.modules, "fastai.optimizer", module)


@pytest.mark.parametrize(("lr", "problem"), [(0.1, None), (1e-5, "slow_convergence")])
def test_training_is_watched_and_not_changed(lr: float, problem: str | None) -> None:
    step = Optimizer.step
    expected = script(lr)
    net, (monitor,) = run(lr)
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), net.parameters(), strict=True))
    assert Optimizer.step is step
    optimizer = monitor.context.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", lr, 0.9)
    assert monitor.history.step == STEPS - 1
    assert monitor.context.loss.name == "CrossEntropyLoss"
    errors = {finding.problem for finding in monitor.findings if finding.severity == "error"}
    assert (problem in errors) if problem else not errors


def test_optimizer_without_settings_trains_unwatched(caplog: pytest.LogCaptureFixture) -> None:
    expected = script(0.1, broken=True)
    net, monitors = run(0.1, broken=True)
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), net.parameters(), strict=True))
    assert not monitors
    assert caplog.text.count("fastai") == 1
