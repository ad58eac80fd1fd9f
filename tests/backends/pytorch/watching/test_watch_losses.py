"""Training and validation losses, logged and observed."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.backends.pytorch.watching.attach import observe
from autotrainer.backends.pytorch.watching.losses.loss_tracker import StepCounter
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler

torch.set_num_threads(1)

X, Y = torch.linspace(-1, 1, 32).reshape(16, 2), torch.linspace(0, 1, 16).reshape(16, 1)


class Clock:
    """Goes on by an hour whenever it is read: there is always time for a sample, unless it stands still."""

    now, pace = 0.0, 3600.0

    def __call__(self) -> float:
        self.now += self.pace
        return self.now


class Training:
    """A small training; `Clock` makes which steps are sampled independent of the machine."""

    def __init__(self, loss_fn: Any = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.loss_fn = nn.MSELoss() if loss_fn is None else loss_fn
        self.clock = Clock()
        self.monitor = Monitor([], Sampler(clock=self.clock, processor=float))  # all work is free
        self.monitor.attach(observe(self.model, self.optimizer, loss_fn, self.monitor))
        self.losses: list[float] = []

    def step(self, count: int = 1, **log: Any) -> None:
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = self.loss_fn(self.model(X), Y)
            loss.mean().backward()
            self.losses.append(float(loss.detach().mean()))
            self.optimizer.step()

    @property
    def counter(self) -> StepCounter:
        return self.monitor.observer._counter  # type: ignore[union-attr]

    def evaluate(self, batches: int = 2, *, grad: bool = False, mode: bool = True) -> float:
        self.model.train(not mode)
        total = 0.0
        with torch.set_grad_enabled(grad):
            for part in range(batches):
                rows = slice(part * 4, part * 4 + 4 + 4 * part)
                loss = self.loss_fn(self.model(X[rows]), Y[rows]).detach()
                total += float(loss.mean()) * len(X[rows])
        self.model.train()
        return total / sum(4 + 4 * part for part in range(batches))

    def known(self) -> dict[int, float]:
        assert not self.monitor._failed
        steps, values = self.monitor.history.losses
        return dict(zip(steps.tolist(), values.tolist(), strict=True))


def test_losses_of_unsampled_steps_are_recorded() -> None:
    training = Training(nn.MSELoss())
    training.step(10)
    training.clock.pace = 0.0
    training.monitor.sampler.stopwatch.add(1e6)
    training.step(100)
    assert len(training.monitor.history.steps) == 11
    training.monitor.sampler.stopwatch.work, training.monitor.sampler._spent = 0.0, (0.0, 0.0)
    training.step(20)
    known = training.known()
    assert len(known) > 100
    assert all(value == pytest.approx(training.losses[step], rel=1e-5) for step, value in known.items())


@pytest.mark.parametrize("shape", ["none", "sum", "mean"])
def test_reductions(shape: str) -> None:
    training = Training(nn.MSELoss(reduction=shape))
    training.step(12)
    training.monitor.end_epoch()
    assert training.monitor.context.loss.reduction == shape
    known = training.known()
    assert len(known) == 12
    assert all(value == pytest.approx(training.losses[step], rel=1e-4) for step, value in known.items())


def test_loss_of_a_function_is_logged() -> None:
    training = Training(F.mse_loss)
    for _ in range(12):
        training.optimizer.zero_grad()
        outputs = training.model(X)
        loss = F.mse_loss(outputs, Y)
        loss.backward()
        training.monitor.log(loss=loss, outputs=outputs, targets=Y)
        training.losses.append(loss.item())
        training.optimizer.step()
    training.monitor.close()
    assert training.known() == pytest.approx(dict(enumerate(training.losses)))
    history = training.monitor.history
    assert history.scalar("squared_error")[3] == pytest.approx(training.losses[3], rel=1e-5)
    assert history.targets.rows == 16 * len(history.steps)
    assert training.monitor.context.loss.family == "squared_error"


def test_log_takes_numbers_and_arrays() -> None:
    training = Training(F.mse_loss)
    training.monitor.log(loss=0.5, outputs=[[1.0], [2.0]], targets=torch.ones(2, 1).numpy())
    training.step()
    assert training.known() == {0: 0.5}
    assert training.monitor.history.scalar("squared_error").tolist() == [0.5]


def test_gradient_accumulation_keeps_the_last_loss() -> None:
    training = Training(nn.MSELoss())
    for _ in range(3):
        training.optimizer.zero_grad()
        for part in range(4):
            loss = training.loss_fn(training.model(X[part::4]), Y[part::4])
            loss.backward()
        training.losses.append(loss.item())
        training.optimizer.step()
    assert training.known() == pytest.approx(dict(enumerate(training.losses)))


def test_a_single_backward_pass_after_steps_of_several_does_not_change_what_the_outputs_are() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x[:, :3].argmax(dim=1)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with autotrainer.watch(model, optimizer, epochs=4, overhead=1.0) as monitor:
        for _ in range(4):
            for batch, start in enumerate(range(0, 256, 16)):
                (F.cross_entropy(model(x[start : start + 16]), y[start : start + 16]) / 3).backward()
                if batch % 3 == 2 or batch == 15:  # the last one alone
                    optimizer.step()
                    optimizer.zero_grad()
    assert "improper_output_activation" not in {finding.problem for finding in monitor.findings}


@pytest.mark.parametrize(("grad", "mode"), [(False, True), (False, False), (True, True)])
def test_validation_loss_is_recorded_at_the_end_of_the_epoch(grad: bool, mode: bool) -> None:
    training = Training(nn.MSELoss())
    wanted = []
    for _ in range(3):
        training.step(5)
        wanted.append(training.evaluate(grad=grad, mode=mode))
        training.monitor.end_epoch(val_accuracy=0.5)
    epochs, values = training.monitor.history.epochs("val_loss")
    assert epochs.tolist() == [0, 1, 2]
    assert values.tolist() == pytest.approx(wanted, rel=1e-5)
    assert training.monitor.history.step_of_epoch(1) == 9
    assert len(training.known()) == 15


def test_values_from_the_user_take_precedence() -> None:
    training = Training(nn.MSELoss())
    training.step(2)
    training.evaluate()
    training.monitor.end_epoch(val_loss=torch.tensor(7.0, requires_grad=True))
    assert training.monitor.history.epochs("val_loss")[1].tolist() == [7.0]


def test_validation_loss_without_end_epoch() -> None:
    training = Training(nn.MSELoss())
    wanted = []
    for _ in range(3):
        training.step(5)
        wanted.append(training.evaluate())
    training.monitor.close()
    epochs, values = training.monitor.history.epochs("val_loss")
    assert epochs.tolist() == [4, 9, 14]  # a step on all rows is an epoch
    assert values.tolist() == pytest.approx(wanted, rel=1e-5)


def test_evaluation_in_the_middle_of_an_epoch_does_not_end_it_for_a_user_who_does() -> None:
    training = Training(nn.MSELoss())
    training.step(2)
    training.monitor.end_epoch()
    training.step(2)
    training.evaluate()
    training.step(2)
    training.monitor.end_epoch()
    assert training.monitor.history.epoch == 2


def test_many_validation_batches_are_accumulated() -> None:
    training = Training(nn.MSELoss())
    training.step()
    training.model.eval()
    with torch.no_grad():
        values = [float(training.loss_fn(training.model(X + i / 100), Y)) for i in range(600)]
    training.model.train()
    training.monitor.end_epoch()
    assert training.monitor.history.epochs("val_loss")[1][0] == pytest.approx(sum(values) / 600, rel=1e-5)


def test_a_model_that_trains_in_eval_mode_has_losses() -> None:
    training = Training(nn.MSELoss())
    training.model.eval()
    training.step(30)
    training.monitor.end_epoch()
    known = training.known()
    assert set(range(10)) <= set(known)
    assert all(value == pytest.approx(training.losses[step], rel=1e-5) for step, value in known.items())
    assert not training.monitor.history.epochs("val_loss")[1].size


def test_gradient_accumulation_in_eval_mode_is_not_validation() -> None:
    model, loss_fn = nn.Linear(3, 1).eval(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            for _ in range(4):
                loss_fn(model(torch.ones(2, 3)), torch.zeros(2, 1)).backward()
            optimizer.step()
    assert not monitor.history.epochs("val_loss")[1].size
    assert len(monitor.history.losses[1]) == 12


class Custom(nn.Module):
    """A loss of one's own that takes targets first, by name, and returns more than the loss."""

    def forward(self, y_true: Tensor, prediction: Tensor) -> dict[str, Any]:
        return {"note": "x", "loss": ((prediction - y_true) ** 2).mean(), "count": torch.tensor(3)}


def test_losses_that_return_more_than_a_loss() -> None:
    training = Training(Custom())
    for _ in range(11):
        training.optimizer.zero_grad()
        found = training.loss_fn(prediction=training.model(X), y_true=Y)
        found["loss"].backward()
        training.losses.append(found["loss"].item())
        training.optimizer.step()
    history = training.monitor.history
    training.monitor.close()
    assert training.known() == pytest.approx(dict(enumerate(training.losses)))
    assert history.targets.maximum == 1
    assert history.scalar("squared_error")[0] == pytest.approx(training.losses[0], rel=1e-5)


def test_the_last_step_of_an_epoch_is_sampled_once_its_length_is_known() -> None:
    training = Training(nn.MSELoss())
    for _ in range(4):
        training.step(37)
        training.monitor.end_epoch()
    assert {73, 110, 147} <= set(training.monitor.history.steps.tolist())


@pytest.mark.parametrize("plan", [{"steps": 347}, {"epochs": 3}])
def test_the_last_step_of_a_planned_training_is_sampled(plan: dict[str, int]) -> None:
    model, loss_fn = nn.Linear(2, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    # The allowance covers the first step alone.
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1e-9, **plan) as monitor:
        for step in range(3 * 116 if "epochs" in plan else 347):
            optimizer.zero_grad()
            loss_fn(model(X), Y).backward()
            optimizer.step()
            if step % 116 == 115:
                monitor.end_epoch()
    assert monitor.history.steps.tolist() == [0, monitor.history.step]


@pytest.mark.parametrize("ended_by", ["the loop", "a loader", "the same tensor"])
def test_the_last_of_many_epochs_of_one_step_is_sampled(ended_by: str) -> None:
    model, loss_fn, epochs = nn.Linear(2, 1), nn.MSELoss(), 400
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = DataLoader(TensorDataset(X, Y), batch_size=len(X)) if ended_by == "a loader" else [(X, Y)]
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1e-5, epochs=epochs) as monitor:
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
            if ended_by == "the loop":
                monitor.end_epoch()
    assert monitor.history.steps[-1] == epochs - 1 > monitor.history.steps[-2] + 1
    assert monitor.history.epoch == epochs


def test_the_last_loss_of_an_unplanned_training_is_known() -> None:
    training = Training(nn.MSELoss())
    training.step(350)
    training.monitor.close()
    assert 349 not in training.monitor.history.steps
    assert training.known()[349] == pytest.approx(training.losses[349])


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("bad", [20, 73, 400, pytest.param(3976, marks=pytest.mark.slow)])
def test_the_first_loss_that_is_not_finite_is_reported_at_once_and_to_the_step(bad: int, logged: bool) -> None:
    torch.manual_seed(0)
    model, loss_fn, raised = nn.Linear(2, 1), nn.MSELoss(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options: dict[str, Any] = {"select": ["nonfinite"], "on_finding": lambda f: raised.append(f.step)}
    with autotrainer.watch(model, optimizer, loss_fn=None if logged else loss_fn, **options) as monitor:
        for step in range(bad + 60):
            optimizer.zero_grad()
            loss = loss_fn(model(X * math.nan if step == bad else X), Y)
            loss.backward()
            if logged:
                monitor.log(loss=loss)
            optimizer.step()
    assert [int(f.evidence["first_step"]) for f in monitor.findings] == [bad]
    assert raised[0] in (bad, bad + 1)


def test_a_loss_that_recovers_is_looked_for_again() -> None:
    training = Training(nn.MSELoss())
    for bad in (1000, 1500):
        training.step(bad - training.counter.step)
        training.loss_fn(training.model(X * math.nan), Y)
        training.optimizer.step()  # with the gradients of the step before
    training.monitor.close()
    assert [step for step, loss in training.known().items() if loss == math.inf] == [1000, 1500]


def test_losses_on_a_device_are_reduced_there() -> None:
    counter = StepCounter()
    for counter.step in range(1000):
        counter.note_on_device(torch.tensor(math.inf if counter.step in (700, 703, 900) else 1.0))
    assert len(counter._recent) < 128
    assert counter.take_nonfinite() == 700
    counter.step = 1001
    counter.note_on_device(torch.tensor(math.nan))
    assert counter.take_nonfinite() is None, "it follows from the first one"
    counter.rearm()
    counter.note_on_device(torch.tensor(math.nan))
    assert counter.take_nonfinite() == 1001
    assert counter.take_nonfinite() is None


def test_a_nonfinite_loss_is_infinite() -> None:
    training = Training(nn.MSELoss())
    training.optimizer.zero_grad()
    loss = training.loss_fn(training.model(X) / 0, Y)
    loss.backward()
    training.optimizer.step()
    assert training.known() == {0: math.inf}


def test_another_output_is_not_a_target() -> None:
    model, loss = nn.Linear(4, 3), nn.TripletMarginLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss, overhead=1.0) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            loss(*model(torch.randn(24, 4)).chunk(3)).backward()
            optimizer.step()
    assert monitor.history.targets.count == 0
    assert all(map(math.isfinite, monitor.history.scalar("loss")))


TOKENS = torch.tensor([[1, 2, 0], [2, 0, 0]] * 8)


def test_logged_loss_shows_its_function_outputs_and_targets() -> None:
    training = Training(lambda outputs, targets: F.mse_loss(outputs, targets) * 1)
    for _ in range(12):
        training.optimizer.zero_grad()
        loss = training.loss_fn(training.model(X), Y)
        loss.backward()
        training.monitor.log(loss=loss)
        training.losses.append(loss.item())
        training.optimizer.step()
    training.monitor.close()
    history, info = training.monitor.history, training.monitor.context.loss
    assert (info.name, info.weighted) == ("mse_loss", False)
    assert history.scalar("squared_error")[3] == pytest.approx(training.losses[3], rel=1e-5)
    assert training.known() == pytest.approx(dict(enumerate(training.losses)))


@pytest.mark.parametrize("loss_fn", [lambda a, b: F.mse_loss(a, b), lambda a, b: ((a - b) ** 2).mean()])
def test_loss_that_nobody_reports_is_read(loss_fn: Any) -> None:
    training = Training()
    training.loss_fn = loss_fn
    original = torch.autograd.backward
    training.step(12)
    training.monitor.close()
    assert training.known() == pytest.approx(dict(enumerate(training.losses)))
    assert torch.autograd.backward is original or getattr(original, "__wrapped__", None) is torch.autograd.backward


def penalty(training: Training) -> torch.Tensor:
    return torch.stack([p.square().sum() for p in training.model.parameters()]).sum()


@pytest.mark.parametrize(
    ("rest", "samples"),
    [(lambda t, _: 0.1 * penalty(t), 12), (lambda t, a: penalty(t) - 100 * a.clamp(-1, 1).abs().mean(), 1)],
    ids=["penalty", "objective of either sign"],
)
def test_a_term_with_targets_shows_them_beside_penalties(rest: Any, samples: int) -> None:
    training = Training()
    training.loss_fn = lambda a, b: (F.mse_loss(a, b, reduction="sum") + rest(training, a)) / 100
    training.step(12)
    training.monitor.close()
    history, info = training.monitor.history, training.monitor.context.loss
    assert (info.name, info.composite, info.reduction) == ("mse_loss", True, "mean")
    errors = history.scalar("squared_error")
    assert np.isfinite(errors).sum() == samples
    assert history.scalar("data_loss")[:samples] == pytest.approx(errors[:samples], rel=1e-5)
    assert training.known() == pytest.approx(dict(enumerate(training.losses)))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.forward(X),
        lambda model: model[2](model[1](model[0](X))),
        lambda model: (model(X), model(X + 1))[0],
        lambda model: model(X).squeeze(1),
    ],
    ids=["forward", "parts", "two calls", "squeezed"],
)
def test_targets_of_a_loss_that_is_written_out(call: Callable[[nn.Module], torch.Tensor]) -> None:
    training = Training()
    for _ in range(4):
        training.optimizer.zero_grad()
        outputs = call(training.model)
        loss = (outputs - Y.reshape(outputs.shape)).pow(2).mean()
        loss.backward()
        training.losses.append(loss.item())
        training.optimizer.step()
    training.monitor.close()
    history = training.monitor.history
    assert history.steps.tolist()[-3:] == [1, 2, 3]  # the first step may show that the root is never called
    assert history.scalar("squared_error") == pytest.approx(np.array(training.losses)[history.steps], rel=1e-5)
    assert training.monitor.history.targets.maximum == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda a, b: F.mse_loss(a, torch.ones_like(a)) + a.square().mean(),
        lambda a, b: F.mse_loss(a, b) + F.binary_cross_entropy_with_logits(a, b.sigmoid()) + a.square().mean(),
        lambda a, b: F.mse_loss(a, 2 * a) + a.square().mean(),
        lambda a, b: a.square().mean() - F.mse_loss(a, b),
    ],
    ids=["equal targets", "two functions", "no targets", "maximized"],
)
def test_terms_without_the_targets_of_the_task_show_none(loss_fn: Any) -> None:
    training = Training()
    training.loss_fn = loss_fn
    training.step(4)
    training.monitor.close()
    assert training.monitor.history.targets.count == 0


def test_losses_of_several_backward_passes_and_other_models_are_not_read() -> None:
    for other in (False, True):
        training = Training()
        critic = nn.Linear(1, 1)
        for _ in range(8):
            training.optimizer.zero_grad()
            for part in range(1 if other else 2):
                outputs = training.model(X[part::2])
                loss = F.mse_loss(critic(outputs) if other else outputs, Y[part::2])
                loss.backward()
            training.optimizer.step()
        training.monitor.close()
        assert training.known() == {}
        assert training.monitor.history.targets.count == 0


def test_scaled_losses_are_not_read_as_values() -> None:
    training = Training()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(8):
        training.optimizer.zero_grad()
        scaler.scale(F.mse_loss(training.model(X), Y)).backward()
        scaler.step(training.optimizer)
        scaler.update()
    training.monitor.close()
    assert training.known() == {}
    assert training.monitor.history.targets.rows > 0


@pytest.mark.parametrize("way", ["module", "function"])
def test_targets_that_the_loss_ignores_are_masked(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    loss_fn = nn.CrossEntropyLoss(ignore_index=0)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn if way == "module" else None) as monitor:
        for _ in range(30):
            outputs = model(TOKENS).flatten(0, 1)
            if way == "module":
                loss = loss_fn(outputs, TOKENS.flatten())
            else:
                loss = F.cross_entropy(outputs, TOKENS.flatten(), ignore_index=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert monitor.history.targets.masked
    assert monitor.history.targets.classes == 2
    assert monitor.history.scalar("accuracy")[-1] == 1.0


@pytest.mark.parametrize("direct", [True, False])
def test_whether_the_loss_takes_the_output_itself_is_known(direct: bool) -> None:
    training = Training(nn.MSELoss())
    for _ in range(4):
        training.optimizer.zero_grad()
        outputs = training.model(X)
        training.loss_fn(outputs.squeeze(1) if direct else outputs * 2, Y.squeeze(1) if direct else Y).backward()
        training.optimizer.step()
    assert set(training.monitor.history.scalar("direct_loss").tolist()) == {float(direct)}


def test_an_optimizer_that_never_steps_is_reported() -> None:
    training = Training(nn.MSELoss())
    for _ in range(120):
        training.loss_fn(training.model(X), Y).backward()
    training.monitor.close()
    assert training.monitor.context.asked["losses_without_step"] >= 100


def _never_stepped(monitors: list[Monitor], change: str) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitors.append(autotrainer.watch(model, optimizer))
    for _ in range(120):
        (model(X) - Y).abs().mean().backward()
        if change == "data":
            for parameter in model.parameters():
                parameter.data = parameter.data - 0.1 * parameter.grad
        elif change == "in place":
            with torch.no_grad():
                model[0].weight -= 0.1 * model[0].weight.grad


@pytest.mark.parametrize(("change", "changed"), [("none", 0.0), ("data", 1.0), ("in place", 1.0)])
def test_a_training_that_never_steps_is_known_after_its_objects_have_gone(change: str, changed: float) -> None:
    monitors: list[Monitor] = []
    _never_stepped(monitors, change)
    gc.collect()
    monitors[0].close()
    asked = monitors[0].context.asked
    assert (asked["losses_without_step"], asked["weights_changed"]) == (120.0, changed)
    assert [finding.problem for finding in monitors[0].findings] == ["parameters_not_optimized"] * (not changed)
    sentence = "although the weights have changed" if changed else "although the model was called with gradients"
    assert sentence in " ".join(str(monitors[0].report()).split())


def test_forward_passes_without_a_step_are_recorded_up_to_a_limit() -> None:
    training = Training(nn.MSELoss())
    for _ in range(100):
        training.loss_fn(training.model(X), Y).backward()
    assert not any(hooks for hooks in (training.model._forward_hooks, training.model[0]._forward_hooks))
    training.optimizer.step()
    assert training.monitor.history.scalar("loss").size == 1
    training.step(3)
    assert np.isfinite(training.monitor.history.layer("activation_std")[-1]).all()


@pytest.mark.parametrize("preserve", [True, False])
def test_checkpointed_loss_is_not_recomputed(preserve: bool) -> None:
    states = []
    for watched in (False, True):
        torch.manual_seed(0)
        x, y = torch.randn(16, 4), torch.randn(16, 1)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with autotrainer.watch(model, optimizer) if watched else nullcontext():
            for _ in range(3):
                optimizer.zero_grad()
                loss = checkpoint(
                    lambda a, b, model=model: F.mse_loss(model(a), b),
                    x,
                    y,
                    use_reentrant=False,
                    preserve_rng_state=preserve,
                )
                loss.backward()
                optimizer.step()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, x, y: F.mse_loss(model(x[:1])[:, :1].squeeze(), y[0].float()),
        lambda model, x, y: F.cross_entropy(model(x[0]), y[0]),
        lambda model, x, y: F.mse_loss(y.float(), model(x)[:, 0]) + F.mse_loss(y.float(), model(x)[:, 1]),
    ],
    ids=["scalar", "no batch", "targets first"],
)
def test_losses_of_odd_shapes_are_no_targets(loss: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    x, y, model = torch.randn(16, 4), torch.randint(0, 2, (16,)), nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with autotrainer.watch(model, optimizer) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            loss(model, x, y).backward()
            optimizer.step()
    assert len(monitor.history.steps) == 12
    assert not [finding for finding in monitor.findings if finding.severity == "error"]
