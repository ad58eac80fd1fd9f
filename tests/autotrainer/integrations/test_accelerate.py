"""accelerate: plain `watch` on what `prepare` returns, `watch` of the integration, and trackers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.errors import InputError
from tests.autotrainer.integrations.faults import FAULTS, HEALTHY, Training, make_training, plain_problems, problems

accelerate = pytest.importorskip("accelerate")

from autotrainer.integrations.accelerate import AutoTrainer, watch  # noqa: E402

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]  # accelerate warns about its own future


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Recorded(accelerate.tracking.GeneralTracker):  # type: ignore[misc,name-defined]
    """A tracker that keeps what it gets."""

    name = "recorded"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.values: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self.values

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.values.append((step, values))


def train(training: Training, accelerator: Any, model: Any, optimizer: Any, *, clip: float = 0.0) -> list[float]:
    losses = []
    for x, y in training.batches:
        with accelerator.accumulate(model):
            loss = training.loss(model(x), y)
            accelerator.backward(loss)
            if clip and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_plain_watch_takes_what_prepare_returns(precision: str) -> None:
    training = make_training(HEALTHY)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    model, optimizer = accelerator.prepare(training.model, training.optimizer)
    with autotrainer.watch(model, optimizer, loss_fn=training.loss, overhead=1.0) as monitor:
        losses = train(training, accelerator, model, optimizer)
    assert monitor.history.step == 15
    assert np.allclose(monitor.history.losses[1], losses)
    assert np.isfinite(monitor.history.scalar("grad_norm")).all()


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "no_zero_grad"])
def test_a_fault_is_the_same_problem_as_in_a_plain_loop(fault: str) -> None:
    training = make_training(fault)
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(training.model, training.optimizer)
    inputs, targets = training.validation
    options: dict[str, Any] = {"loss_fn": training.loss, "epochs": training.epochs, "overhead": 1.0}
    with watch(accelerator, model, optimizer, **options) as monitor:
        for _ in range(training.epochs):
            train(training, accelerator, model, optimizer)
            model.eval()
            with torch.no_grad():
                loss = training.loss(model(inputs), targets)
            model.train()
            monitor.end_epoch(val_loss=loss)
    assert problems(monitor) == plain_problems(fault)


def test_accumulation_gradients_before_clipping_and_trackers() -> None:
    training, tracker, ours = make_training(HEALTHY), Recorded(), AutoTrainer()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2, log_with=[tracker, ours])
    accelerator.init_trackers("test")
    model, optimizer = accelerator.prepare(training.model, training.optimizer)
    monitor = watch(accelerator, model, optimizer, overhead=1.0)
    assert ours.tracker is monitor
    losses = train(training, accelerator, model, optimizer, clip=1e-3)
    accelerator.log({"val_loss": 0.5, "train_loss": 1.0})
    assert monitor.history.epoch == 1
    accelerator.end_training()
    assert monitor.closed
    assert monitor.history.step == 7
    assert np.allclose(monitor.history.losses[1], np.reshape(losses, (8, 2)).mean(axis=1), rtol=1e-4)
    assert (monitor.history.scalar("grad_norm") > 1e-2).all()
    names = {name for _, values in tracker.values for name in values}
    assert any(name.startswith("autotrainer/0/") for name in names)
    assert {step for step, values in tracker.values if any("grad_norm" in name for name in values)} == set(range(8))
    assert torch.nn.utils.clip_grad_norm_ is torch.nn.utils.clip_grad.clip_grad_norm_


def test_gradients_are_read_before_their_values_are_clipped() -> None:
    training = make_training(HEALTHY)
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(training.model, training.optimizer)
    with watch(accelerator, model, optimizer, overhead=1.0) as monitor:
        for x, y in training.batches:
            accelerator.backward(training.loss(model(x), y))
            accelerator.clip_grad_value_(model.parameters(), 1e-6)
            optimizer.step()
            optimizer.zero_grad()
    assert (monitor.history.scalar("grad_norm") > 1e-2).all()
    assert torch.nn.utils.clip_grad_value_ is torch.nn.utils.clip_grad.clip_grad_value_


def test_watching_changes_no_bit() -> None:
    weights = []
    for watched in (True, False):
        training = make_training(HEALTHY)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model, optimizer = accelerator.prepare(training.model, training.optimizer)
        monitor = watch(accelerator, model, optimizer, overhead=1.0) if watched else None
        train(training, accelerator, model, optimizer, clip=0.1)
        if monitor is not None:
            monitor.close()
        weights.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert torch.equal(*weights)


def test_misuse_is_one_clear_line() -> None:
    training = make_training(HEALTHY)
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(InputError, match="takes an Accelerator first"):
        watch(training.model, training.model, training.optimizer)
    with pytest.raises(InputError, match="that prepare return"):
        autotrainer.watch(accelerator)
    scheduler = accelerator.prepare(torch.optim.lr_scheduler.StepLR(training.optimizer, 1))
    with pytest.raises(InputError, match=r"must be a torch.optim.Optimizer"):
        autotrainer.watch(training.model, scheduler)
