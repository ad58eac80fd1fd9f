"""What is observed of a loop itself: zeroing of gradients, modes, parameter ownership, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

import autotrainer
from autotrainer.backends.pytorch.model.describe import optimizer_info
from autotrainer.backends.pytorch.model.weight_patterns import is_newly_drawn
from autotrainer.backends.pytorch.watching.attach import observe
from autotrainer.backends.pytorch.watching.mode_tracker import ModeTracker, dropout_rate
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler

torch.set_num_threads(1)

X, Y = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2


class Watched:
    """A small training of which every step of the first ten is sampled."""

    def __init__(self, model: nn.Module | None = None, optimizer: Any = None) -> None:
        torch.manual_seed(0)
        self.model = model or nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.optimizer = optimizer or torch.optim.SGD(self.model.parameters(), 0.1)
        self.loss = nn.CrossEntropyLoss()
        self.monitor = Monitor([], Sampler(1.0))
        self.monitor.attach(observe(self.model, self.optimizer, self.loss, self.monitor))

    def forward(self) -> torch.Tensor:
        found: torch.Tensor = self.loss(self.model(X), Y)
        return found

    def known(self, column: str) -> list[float]:
        """Return the known values of a column."""
        assert not self.monitor._failed
        values = self.monitor.history.scalar(column)
        return [float(value) for value in values[~np.isnan(values)]]


# -- gradients of the step before -------------------------------------------------------------------------------------


def reset_first(w: Watched) -> None:
    w.optimizer.zero_grad()
    w.forward().backward()
    w.optimizer.step()


def reset_after_forward(w: Watched) -> None:
    loss = w.forward()
    w.optimizer.zero_grad(set_to_none=False)
    loss.backward()
    w.optimizer.step()


def reset_last(w: Watched) -> None:
    w.forward().backward()
    w.optimizer.step()
    w.model.zero_grad()


def accumulates(w: Watched) -> None:
    for _ in range(3):
        (w.forward() / 3).backward()
    w.optimizer.step()
    w.optimizer.zero_grad()


def clips(w: Watched) -> None:
    w.optimizer.zero_grad()
    w.forward().backward()
    nn.utils.clip_grad_norm_(w.model.parameters(), 0.01)
    w.optimizer.step()


def penalizes(w: Watched) -> None:
    loss = w.forward()  # a penalty on gradients, before the reset
    grads = torch.autograd.grad(loss, list(w.model.parameters()), create_graph=True)
    w.optimizer.zero_grad()
    (loss + sum(g.square().sum() for g in grads)).backward()
    w.optimizer.step()


def adversary_first(w: Watched) -> None:
    (-w.forward()).backward()  # of another optimizer, which leaves gradients here too
    w.optimizer.zero_grad()
    w.forward().backward()
    w.optimizer.step()


def never(w: Watched) -> None:
    w.forward().backward()
    w.optimizer.step()


def never_but_accumulates(w: Watched) -> None:
    w.forward().backward()
    never(w)


def never_but_clips(w: Watched) -> None:
    w.forward().backward()
    nn.utils.clip_grad_norm_(w.model.parameters(), 0.01)
    w.optimizer.step()


def decays_by_hand(w: Watched) -> None:
    for parameter in w.model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(0.9)
    never(w)


@pytest.mark.parametrize(
    ("step", "values"),
    [
        (reset_first, {0.0}),
        (reset_after_forward, {0.0}),
        (reset_last, {0.0}),
        (accumulates, {0.0}),
        (clips, {0.0}),
        (penalizes, {0.0}),
        (adversary_first, {0.0}),
        (never, {1.0}),
        (never_but_accumulates, {1.0}),
        (never_but_clips, {1.0}),
        (decays_by_hand, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_stale_gradients(step: Callable[[Watched], None], values: set[float]) -> None:
    watched = Watched()
    for _ in range(6):
        step(watched)
    assert set(watched.known("stale_gradients")) == values


def test_closure_resets_gradients() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    watched = Watched(model, torch.optim.LBFGS(model.parameters(), max_iter=3))

    def closure() -> torch.Tensor:
        watched.optimizer.zero_grad()
        loss = watched.forward()
        loss.backward()
        return loss

    for _ in range(5):
        watched.optimizer.step(closure)
    assert set(watched.known("stale_gradients")) == {0.0}


def test_adversarial_training_shows_a_reset() -> None:
    torch.manual_seed(0)
    last_layer, critic = nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    makes, judges = torch.optim.Adam(last_layer.parameters()), torch.optim.Adam(critic.parameters())
    monitor = Monitor([], Sampler(1.0))
    monitor.attach(observe(critic, judges, None, monitor))
    for _ in range(8):
        judges.zero_grad()
        made = last_layer(torch.randn(16, 2))
        (critic(made.detach()).mean() - critic(X).mean()).backward()
        judges.step()
        makes.zero_grad()
        (-critic(made).mean()).backward()  # adds to the critic's gradients
        makes.step()
    stale = monitor.history.scalar("stale_gradients")
    assert set(stale[~np.isnan(stale)]) == {0.0}


def test_hooks_are_removed() -> None:
    watched = Watched()
    for _ in range(3):
        never(watched)
    watched.monitor.close()
    before = [p.grad.clone() for p in watched.model.parameters() if p.grad is not None]
    watched.forward().backward()
    assert all(not torch.equal(p.grad, b) for p, b in zip(watched.model.parameters(), before, strict=True))
    assert not watched.model._forward_pre_hooks


# -- modes ------------------------------------------------------------------------------------------------------------


def net(*, rate: float = 0.5, bn: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8) if bn else nn.LayerNorm(8)
    return nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Dropout(rate), nn.Linear(8, 2))


def frozen_norm() -> nn.Module:
    model = net(rate=0.0)
    model.eval()
    model[1].requires_grad_(False)
    return model


def frozen_body() -> nn.Module:
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False), nn.Dropout(0.5)).requires_grad_(False)
    return nn.Sequential(body, nn.Linear(8, 2)).eval()


def norm_on_purpose() -> nn.Module:
    model = net(rate=0.0)
    model[1].eval()
    return model


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (net, {1.0}),
        (lambda: net().eval(), {0.0}),
        (lambda: net(bn=False).eval(), {0.0}),
        (lambda: net(rate=0.0).eval(), {0.0}),
        (lambda: net(rate=0.0, bn=False).eval(), set()),
        (lambda: nn.Sequential(nn.Linear(4, 2)).eval(), set()),
        (frozen_norm, set()),
        (frozen_body, set()),
        (norm_on_purpose, set()),
    ],
    ids=["trains", "evaluates", "dropout", "norm", "no matter", "plain", "frozen norm", "frozen body", "norm alone"],
)
def test_mode_of_training(model: Callable[[], nn.Module], values: set[float]) -> None:
    watched = Watched(model())
    for _ in range(5):
        reset_first(watched)
    assert set(watched.known("training_mode")) == values


def train(
    *,
    evaluation: bool = True,
    epochs: int = 4,
    told: bool = True,
    batches: int = 1,
    loss: Any = None,
    model: Any = None,
) -> list[float]:
    """Train 20 steps an epoch, and return the modes of the evaluations that were seen."""
    loss = loss or nn.CrossEntropyLoss()
    model = model or net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, loss_fn=loss, epochs=epochs, select=()) as monitor:
        for _ in range(epochs):
            model.train()
            for _ in range(20):
                optimizer.zero_grad()
                loss(model(X), Y).backward()
                optimizer.step()
            model.train(not evaluation)
            with torch.no_grad():
                outputs = [model(X) for _ in range(batches)]
                model.train()  # the mode of the passes counts
                found = [loss(output, Y) for output in outputs]
            monitor.end_epoch(**({"val_loss": found[0]} if told else {}))
    assert not monitor._failed
    return monitor.history.epochs("evaluation_mode")[1].tolist()


@pytest.fixture
def ten_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample the first ten steps alone, however fast the machine is, and the last ones of known epochs."""
    monkeypatch.setattr(Sampler, "_covers_sample", lambda sampler: sampler._step < 10)
    monkeypatch.setattr(Sampler, "allows_extra", lambda sampler: True)


@pytest.mark.usefixtures("ten_samples")
def test_mode_of_evaluations() -> None:
    assert train() == [0.0] * 4
    assert train(evaluation=False) == [1.0] * 4
    assert train(evaluation=False, model=net(rate=0.0, bn=False)) == []


@pytest.mark.usefixtures("ten_samples")
def test_evaluations_without_a_loss_module() -> None:
    assert train(evaluation=False, loss=nn.functional.cross_entropy) == [1.0] * 3
    assert train(loss=nn.functional.cross_entropy) == [0.0] * 3
    assert train(evaluation=False, loss=nn.functional.cross_entropy, told=False) == []


def test_generator_samples_are_not_an_evaluation() -> None:
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, loss_fn=loss, epochs=4, select=()) as monitor:
        for _ in range(4):
            for _ in range(20):
                with torch.no_grad():
                    model(X)
                optimizer.zero_grad()
                loss(model(X), Y).backward()
                optimizer.step()
            monitor.end_epoch(val_loss=1.0)
    assert monitor.history.epochs("evaluation_mode")[1].tolist() == []
    assert model._compiled_call_impl is None


@pytest.mark.parametrize(("passes", "expected"), [(1, [1.0, 1.0]), (2, [1.0, 1.0]), (8, [])])
def test_averaging_over_dropout_is_intended(passes: int, expected: list[float]) -> None:
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, loss_fn=loss, epochs=2, select=()) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            loss(model(X), Y).backward()
            optimizer.step()
            with torch.no_grad():
                for rows in (slice(0, 8), slice(8, 16)):
                    loss(sum(model(X[rows]) for _ in range(passes)) / passes, Y[rows])
            monitor.end_epoch()
    assert monitor.history.epochs("evaluation_mode")[1].tolist() == expected
    assert model._compiled_call_impl is None


@pytest.mark.usefixtures("ten_samples")
def test_a_model_has_no_hook_once_its_evaluation_has_begun() -> None:
    model, hooks = net(), []
    loss = nn.functional.cross_entropy
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer, epochs=3, select=(), overhead=1e-6) as monitor:
        for _ in range(3):
            model.train()
            for _ in range(20):
                optimizer.zero_grad()
                loss(model(X), Y).backward()
                optimizer.step()
            model.eval()
            hooks.append(model._compiled_call_impl is not None)
            with torch.no_grad():
                value = loss(model(X[:8]), Y[:8]) + loss(model(X[8:]), Y[8:])
            hooks.append(model._compiled_call_impl is not None)
            monitor.end_epoch(val_loss=value)
    assert hooks == [True, False] * 3
    assert monitor.history.epochs("evaluation_mode")[1].tolist() == [0.0, 0.0]


def test_waiting_for_an_evaluation_ends() -> None:
    model, steps = net(), [10]
    tracker = ModeTracker(model, lambda: steps[0], pytest.fail)
    tracker.expect_evaluation(10)
    model(X)
    assert model._compiled_call_impl is not None
    steps[0] = 13
    model(X)
    assert model._compiled_call_impl is None
    assert math.isnan(tracker.end_epoch(held_out_reported=True))


@pytest.mark.parametrize(
    ("module", "rate"),
    [
        (nn.Dropout(0.3), 0.3),
        (nn.AlphaDropout(0.2), 0.2),
        (nn.MultiheadAttention(4, 2, dropout=0.1), 0.1),
        (nn.LSTM(4, 4, 2, dropout=0.4), 0.4),
        (nn.BatchNorm1d(4), 0.0),
        (type("DropPath", (nn.Module,), {"drop_prob": 0.2})(), 0.2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_dropout_rate(module: nn.Module, rate: float) -> None:
    assert dropout_rate(module) == rate


# -- owners and schedules ---------------------------------------------------------------------------------------------


def unowned(watched: Watched) -> list[int]:
    return [layer.unowned for layer in watched.monitor.context.layers if layer.parameters]


def test_parameter_ownership_is_tracked_from_the_start() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    watched = Watched(model, torch.optim.SGD([model[0].weight], 0.1))
    assert unowned(watched) == [64, 130]
    reset_first(watched)
    assert unowned(watched) == [64, 130]
    assert [layer.start for layer in watched.monitor.context.layers] == ["drawn", "", ""]  # the last one has too few
    watched.optimizer.add_param_group({"params": [model[0].bias, model[2].weight]})
    reset_first(watched)
    assert unowned(watched) == [0, 2]
    model[2].bias.requires_grad_(False)
    reset_first(watched)
    assert unowned(watched) == [0, 0]


def test_shared_and_frozen_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.head = nn.Linear(4, 2).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(torch.tanh(self.first(x))))

    model = Tied()
    watched = Watched(model, torch.optim.SGD([model.first.weight], 0.1))
    reset_first(watched)
    assert {layer.name: layer.unowned for layer in watched.monitor.context.layers} == {
        "first": 4,
        "second": 4,
        "head": 0,
    }


def test_trained_weights_are_not_newly_drawn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 128), nn.Tanh(), nn.Linear(128, 2))
    assert [is_newly_drawn(model[0]), is_newly_drawn(model[2])] == [True, True]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    watched = Watched(model, torch.optim.SGD(model[2].parameters(), 0.1))
    assert [layer.start for layer in watched.monitor.context.layers] == ["", "", ""]
    assert unowned(watched) == [640, 0]


@pytest.mark.parametrize(
    ("attach", "expected"),
    [
        (lambda o: StepLR(o, 3), True),
        (lambda o: OneCycleLR(o, 0.1, 10), True),
        (ReduceLROnPlateau, False),  # leaves no trace
        (lambda o: None, False),
    ],
    ids=["steps", "cycle", "plateau", "none"],
)
def test_schedulers_are_detected_before_and_after_the_start(attach: Callable[[Any], Any], expected: bool) -> None:
    watched = Watched()
    assert not watched.monitor.context.optimizer.scheduled
    reset_first(watched)
    scheduler = attach(watched.optimizer)
    reset_first(watched)
    assert watched.monitor.context.optimizer.scheduled is expected
    assert optimizer_info(watched.optimizer).scheduled is expected
    del scheduler
