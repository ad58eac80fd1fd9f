"""Optimizers that are created anew during a training, in both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

import autotrainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8)).astype("float32")
Y = X[:, :4].argmax(1)
EPOCHS, STEPS = 4, 20
Made = Callable[[Any], torch.optim.Optimizer]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 0.01)


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)


def trained(make: Made, every: int, *, watched: bool = True) -> tuple[nn.Module, Any]:
    """Train with a new optimizer every so many steps."""
    torch.manual_seed(0)
    model, loss_fn = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), nn.CrossEntropyLoss()
    optimizer, step = make(model), 0
    monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=EPOCHS) if watched else None
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            if step and step % every == 0:
                optimizer = make(model)  # nothing refers to the one before
            step += 1
            optimizer.zero_grad()
            outputs = model(torch.from_numpy(X))
            loss_fn(outputs, torch.from_numpy(Y)).backward()
            optimizer.step()
        if monitor is not None:
            monitor.end_epoch(val_accuracy=float((outputs.argmax(1).numpy() == Y).mean()))
    if monitor is not None:
        monitor.close()
    return model, monitor


@pytest.mark.parametrize(
    ("make", "every", "expected"),
    [
        pytest.param(momentum, 1, "error", id="momentum never builds up"),
        pytest.param(adam, 1, "warning", id="Adam learns all the same"),
        pytest.param(lambda model: torch.optim.SGD(model.parameters(), 1e-3), 1, None, id="no memory"),
        pytest.param(adam, STEPS, None, id="each epoch"),
        pytest.param(adam, 1000, None, id="once"),
    ],
)
def test_new_optimizers_in_pytorch(make: Made, every: int, expected: str | None) -> None:
    constructor = torch.optim.Optimizer.__init__
    model, monitor = trained(make, every)
    found = {f.problem: str(f.severity) for f in monitor.findings}
    assert found.get("recreated_optimizer") == expected
    assert torch.optim.Optimizer.__init__ is constructor
    for one, other in zip(model.parameters(), trained(make, every, watched=False)[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_sample_does_not_wait_for_an_optimizer_that_was_replaced() -> None:
    torch.manual_seed(0)
    model, loss_fn = nn.Linear(8, 4), nn.CrossEntropyLoss()
    optimizers = [adam(model)]
    with autotrainer.watch(model, optimizers[0], loss_fn=loss_fn):
        for step in range(5):
            if step == 2:
                optimizers.append(adam(model))
            loss_fn(model(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
            optimizers[-1].step()
        assert not model._forward_hooks
        assert optimizers[1]._optimizer_step_post_hooks
    assert not optimizers[1]._optimizer_step_post_hooks


class Wrapper(torch.optim.Optimizer):
    """Steps by another optimizer, as Lookahead does."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self, closure: Any = None) -> None:
        self.base.step()


def test_an_optimizer_around_the_watched_one_does_not_replace_it() -> None:
    model, loss_fn = nn.Linear(8, 4), nn.CrossEntropyLoss()
    optimizer = adam(model)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn) as monitor:
        wrapper = Wrapper(optimizer)
        for _ in range(20):
            loss_fn(model(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
            wrapper.step()
    assert "later_steps" not in monitor.context.asked
    assert len(monitor.history.steps) > 10


def test_optimizers_of_other_parameters_are_not_counted() -> None:
    model, loss_fn = nn.Linear(8, 4), nn.CrossEntropyLoss()
    optimizer = adam(model)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn) as monitor:
        for _ in range(20):
            other = adam(nn.Linear(1, 1))
            loss_fn(model(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
            optimizer.step()
            other.step()
    assert "later_steps" not in monitor.context.asked
    assert monitor.history.step == 19


@pytest.mark.parametrize(("every", "expected"), [(1, "warning"), (STEPS, None), (1000, None)])
@pytest.mark.slow
def test_new_optimizers_in_keras(every: int, expected: str | None) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)])
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=EPOCHS) as monitor:
        for step in range(EPOCHS * STEPS):
            if step and step % every == 0:
                optimizer = keras.optimizers.Adam(0.01)
            with tf.GradientTape() as tape:
                loss = loss_fn(Y, model(X, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
            if step % STEPS == STEPS - 1:
                right = model(X, training=False).numpy().argmax(1) == Y
                monitor.end_epoch(val_accuracy=float(right.mean()))
    found = {f.problem: str(f.severity) for f in monitor.findings}
    assert found.get("recreated_optimizer") == expected
    assert monitor.history.step == EPOCHS * STEPS - 1
