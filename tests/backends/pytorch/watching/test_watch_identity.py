"""Watching changes nothing: bit-identical weights, no random number drawn, nothing left behind."""

from __future__ import annotations

import copy
import gc
import io
import random
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer

torch.set_num_threads(1)

STEPS = 25


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(36, 16)
        self.second = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x.reshape(-1, 1, 8, 8))), inplace=True), 2)
        x = F.dropout(torch.tanh(self.first(x.flatten(1))), 0.3, self.training)
        return F.log_softmax(self.second(x), 1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.reshape(-1, 8, 8))[0][:, -1])


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(32, 16), nn.Sigmoid(), nn.Linear(16, 3)
    )


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Unflatten(1, (8, 8)), body, nn.Flatten(), nn.Linear(64, 3))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-2)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)


def lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)


def train(
    build: Callable[[], nn.Module], make: Callable[[nn.Module], Any], watched: bool, accumulate: int = 1
) -> tuple[dict[str, Tensor], Tensor, float]:
    torch.manual_seed(3)
    model = build()
    optimizer, loss_fn = make(model), nn.CrossEntropyLoss()
    x, y = torch.randn(48, 64), torch.randint(0, 3, (48,))
    checked = 0.0
    context: Any = autotrainer.watch(model, optimizer, loss_fn=loss_fn) if watched else nullcontext()
    with context as monitor:
        for step in range(STEPS):
            batch = torch.randint(0, 48, (16,))

            def closure(batch: Tensor = batch) -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = loss_fn(model(x[batch]), y[batch])
                loss.backward()
                return loss

            if isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(closure)
            else:
                if step % accumulate == 0:
                    optimizer.zero_grad()
                loss_fn(model(x[batch]), y[batch]).backward()
                if step % accumulate == accumulate - 1:
                    optimizer.step()
            if step % 10 == 9:
                model.eval()
                with torch.no_grad():
                    checked += float(loss_fn(model(x), y))
                model.train()
        if watched:
            assert not monitor._failed
            assert len(monitor.history.steps) >= 5
    return model.state_dict(), torch.get_rng_state(), checked


@pytest.mark.parametrize("build", [plain, Functional, Recurrent, transformer])
@pytest.mark.parametrize("make", [adam, sgd, lbfgs])
def test_weights_are_bit_identical(
    build: Callable[[], nn.Module], make: Callable[[nn.Module], torch.optim.Optimizer]
) -> None:
    alone, watched = train(build, make, False), train(build, make, True)
    assert alone[0].keys() == watched[0].keys()
    assert all(torch.equal(value, watched[0][name]) for name, value in alone[0].items())
    assert torch.equal(alone[1], watched[1])
    assert alone[2] == watched[2]


def test_gradient_accumulation_is_bit_identical() -> None:
    alone, watched = train(plain, adam, False, 4), train(plain, adam, True, 4)
    assert all(torch.equal(value, watched[0][name]) for name, value in alone[0].items())


def test_no_random_number_is_drawn() -> None:
    model = plain()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    with autotrainer.watch(model, adam(model), loss_fn=nn.CrossEntropyLoss()) as monitor:
        monitor.end_epoch(val_loss=1.0)
        _ = monitor.findings
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]


def hooks_of(*modules: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for root in modules for m in root.modules())


def surface(model: nn.Module) -> list[tuple[str, list[str]]]:
    return [(name, sorted(vars(module))) for name, module in model.named_modules()]


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_close_leaves_nothing_behind(steps: int) -> None:
    model, loss_fn = Functional(), nn.NLLLoss()
    optimizer = adam(model)
    before = surface(model), sorted(vars(loss_fn)), sorted(vars(optimizer))
    monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(model(torch.randn(4, 64)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    assert "_compiled_call_impl" in vars(loss_fn)
    monitor.close()
    monitor.close()
    assert hooks_of(model, loss_fn) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not torch.overrides._get_current_function_mode_stack()
    assert before == (surface(model), sorted(vars(loss_fn)), sorted(vars(optimizer)))


class Failing(nn.Module):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.error: type[BaseException] | None = error

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.layer(x))
        if self.error is not None:
            raise self.error("the user's own")
        return x


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_model_error_propagates_and_leaves_nothing_behind(error: type[BaseException]) -> None:
    model = Failing(error)
    with pytest.raises(error, match="own"), autotrainer.watch(model, sgd(model), loss_fn=nn.MSELoss()):
        model(torch.ones(2, 4))
    assert hooks_of(model) == 0
    assert not torch.overrides._get_current_function_mode_stack()


def test_caught_model_error_does_not_end_watching() -> None:
    model, loss_fn = Failing(KeyboardInterrupt), nn.MSELoss()
    optimizer = sgd(model)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn) as monitor:
        with pytest.raises(KeyboardInterrupt):
            model(torch.ones(2, 4))
        model.error = None
        for _ in range(3):
            loss_fn(model(torch.ones(2, 4)), torch.zeros(2, 2)).backward()
            optimizer.step()
        assert len(monitor.history.steps) == 3
        assert monitor.history.layers[0].activation == "relu"
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("steps", [0, 3, 40])
def test_copies_and_saved_models_equal_unwatched_ones(steps: int) -> None:
    model, loss_fn = Functional(), nn.NLLLoss()
    model.criterion = loss_fn
    optimizer = adam(model)
    x, y = torch.randn(4, 64), torch.tensor([0, 1, 2, 0])
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        seen, names = len(monitor.history.steps), list(model.state_dict())
        copied, copied_optimizer = copy.deepcopy(model), copy.deepcopy(optimizer)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        assert b"autotrainer" not in buffer.getvalue()
        loaded = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
        for other in (copied, loaded):
            assert list(other.state_dict()) == names
            other.train()
            assert torch.isfinite(other.criterion(other(x), y))
        assert not copied_optimizer._optimizer_step_post_hooks
        assert len(monitor.history.steps) == seen
        assert all(step < steps for step, _ in monitor._observer._counter.losses)  # type: ignore[union-attr]
        assert not monitor._failed


def test_a_model_can_be_collected_after_close() -> None:
    model, loss_fn = plain(), nn.CrossEntropyLoss()
    optimizer = adam(model)
    monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn)
    optimizer.zero_grad()
    loss_fn(model(torch.randn(4, 64)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    monitor.close()
    known = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert known() is None
    assert len(monitor.history.steps) == 1


def test_watching_twice_replaces_the_first() -> None:
    model, loss_fn = plain(), nn.CrossEntropyLoss()
    optimizer = adam(model)
    first = autotrainer.watch(model, optimizer, loss_fn=loss_fn)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn) as second:
        assert first.closed
        assert not second.closed
        assert loss_fn._compiled_call_impl is not None
        assert not loss_fn._forward_hooks
    assert vars(loss_fn).keys() == vars(nn.CrossEntropyLoss()).keys()
    assert hooks_of(model, loss_fn) == 0


def test_shallow_copy_of_the_loss_is_independent() -> None:
    model, loss_fn = nn.Linear(4, 1), nn.MSELoss()
    with autotrainer.watch(model, adam(model), loss_fn=loss_fn):
        each = copy.copy(loss_fn)
        each.reduction = "none"
        assert each(torch.ones(3, 1), torch.zeros(3, 1)).shape == (3, 1)
