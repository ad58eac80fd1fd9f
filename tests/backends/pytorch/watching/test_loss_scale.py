"""The scale of a `GradScaler` that is not passed to `watch`."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.backends.pytorch.watching.losses.loss_scale import LossScale


def trained(*, watched: bool, fused: bool = False, steps: int = 30) -> tuple[Any, Any, list[float], Any]:
    """Train with a gradient that overflows in every third step; return weights, state, scales and history."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 4), torch.randn(64, 1)
    model, loss_fn = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1.0) if watched else None
    scales = []
    for step in range(steps):
        optimizer.zero_grad()
        scaler.scale(loss_fn(model(x), y)).backward()
        if step % 3 == 2:
            model.get_parameter("0.weight").grad.mul_(torch.inf)  # type: ignore[union-attr]
        if step % 3 != 2 or fused:  # a fused optimizer leaves such a step out by itself
            scales.append(scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
    if monitor is not None:
        monitor.close()
        assert not monitor._failed
        assert "nonfinite" not in {finding.problem for finding in monitor.findings}
    return model.state_dict(), scaler.state_dict(), scales, monitor and monitor.history


@pytest.mark.parametrize("fused", [False, True])
def test_loss_scale_is_recorded_without_changing_the_training(fused: bool) -> None:
    weights, state, _, _ = trained(watched=False, fused=fused)
    same, same_state, scales, history = trained(watched=True, fused=fused)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert state == same_state
    assert history.scalar("loss_scale").tolist() == [scales[step] for step in history.steps]
    assert len(set(scales)) > 2
    left_out = (history.steps % 3 == 2) & fused
    for column in ("grad_norm", "update_ratio"):
        assert np.array_equal(np.isnan(history.layer(column)[:, 0]), left_out)


class StepHook:
    """Reads the scale where a hook on the optimizer's step does."""

    def __init__(self) -> None:
        self.parameter = nn.Parameter(torch.ones(2))
        self.optimizer = torch.optim.SGD([self.parameter], 0.1)
        self.read = LossScale()
        self.values: list[Tensor | float] = []
        self.optimizer.register_step_post_hook(lambda *_: self.values.append(self.read.read()))

    def step(self, scaler: torch.amp.GradScaler, factor: float = 1.0) -> float:
        self.parameter.grad = None
        scaler.scale(self.parameter.sum() * factor).backward()  # type: ignore[no-untyped-call]
        before = len(self.values)
        scaler.step(self.optimizer)
        scaler.update()
        return float(self.values[-1]) if len(self.values) > before else np.nan


def test_no_scaler_and_a_disabled_scaler() -> None:
    hook = StepHook()
    assert np.isnan(hook.step(torch.amp.GradScaler("cpu", enabled=False)))
    hook.optimizer.step()
    assert np.isnan(float(hook.values[-1]))
    assert hook.read.facts(stepped=True) == {}


def test_skipped_steps_are_reported_once() -> None:
    hook, scaler = StepHook(), torch.amp.GradScaler("cpu")
    assert hook.step(scaler) == 65536
    assert hook.read.facts(stepped=True) == {}
    assert np.isnan(hook.step(scaler, torch.inf))
    assert hook.read.facts(stepped=True) == {"loss_scale": 32768.0}
    assert hook.read.facts(stepped=True) == {}


def test_only_scaler_is_used_without_any_step() -> None:
    gc.collect()
    hook, scaler = StepHook(), torch.amp.GradScaler("cpu")
    hook.step(scaler, torch.inf)
    assert hook.read.facts(stepped=False) == {"loss_scale": 32768.0}
    other, second = StepHook(), torch.amp.GradScaler("cpu")
    other.step(second, torch.inf)
    assert other.read.facts(stepped=False) == {}
    assert other.read.facts(stepped=True) == {}


def test_the_scaler_is_not_kept_alive() -> None:
    hook, scaler = StepHook(), torch.amp.GradScaler("cpu")
    hook.step(scaler)
    alive = weakref.ref(scaler)
    del scaler
    gc.collect()
    assert alive() is None
    assert hook.read.facts(stepped=True) == {}
    assert hook.step(torch.amp.GradScaler("cpu", init_scale=8.0)) == 8
