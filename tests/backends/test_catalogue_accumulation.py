"""Faults of loops with accumulation, schedules, several losses and resumed trainings, and the same without a fault."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.records.findings import Finding, Severity

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(512, 8)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(np.int64)
CODES = ("AT410", "AT413", "AT414", "AT416", "AT801", "AT408")
EPOCHS = 6


class Loop:
    """A training in PyTorch; subclasses replace single parts."""

    rate, batch, every = 0.1, 16, 1
    optimizer: Any = torch.optim.SGD
    rows = 512

    def schedule(self, optimizer: Any, steps: int) -> Any:
        return None

    def loss(self, loss: Any, aux: nn.Module, outputs: Any, x: Any, y: Any, number: int) -> torch.Tensor:
        value: torch.Tensor = loss(outputs, y)
        return value

    def backward(self, loss: torch.Tensor, model: nn.Module) -> None:
        (loss / self.every).backward()

    def before_step(self, model: nn.Module) -> None:
        pass

    def after_step(self, schedule: Any) -> None:
        if schedule is not None:
            schedule.step()

    def after_epoch(self, schedule: Any, optimizer: Any) -> None:
        pass

    def run(self) -> dict[str, Finding]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        aux, loss = nn.Linear(2, 1), nn.CrossEntropyLoss()
        optimizer = self.optimizer([*model.parameters(), *aux.parameters()], self.rate)
        data = TensorDataset(torch.from_numpy(X[: self.rows]), torch.from_numpy(Y[: self.rows]))
        loader = DataLoader(data, self.batch, shuffle=True)
        schedule = self.schedule(optimizer, len(loader) // self.every * EPOCHS)
        number = 0
        with autotrainer.watch(
            model, optimizer, loss_fn=loss, epochs=EPOCHS, select=CODES, overhead=1.0
        ) as self.monitor:
            for _ in range(EPOCHS):
                for index, (x, y) in enumerate(loader):
                    self.backward(self.loss(loss, aux, model(x), x, y, number), model)
                    number += 1
                    if (index + 1) % self.every == 0:
                        self.before_step(model)
                        optimizer.step()
                        optimizer.zero_grad()
                        self.after_step(schedule)
                self.after_epoch(schedule, optimizer)
        assert not self.monitor._failed
        return {finding.problem: finding for finding in self.monitor.findings}


class Accumulates(Loop):
    every = 4


class Clips(Loop):
    def before_step(self, model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)


class Sums(Accumulates):
    every, batch, rate = 16, 4, 0.5

    def backward(self, loss: torch.Tensor, model: nn.Module) -> None:
        loss.backward()


class SumsForAdam(Sums):
    optimizer, rate, every = torch.optim.Adam, 0.003, 4


class DividesLater(Accumulates):
    def backward(self, loss: torch.Tensor, model: nn.Module) -> None:
        loss.backward()

    def before_step(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.every


class Drops(Accumulates):
    every, batch, rows, rate = 10, 8, 440, 0.02

    def after_epoch(self, schedule: Any, optimizer: Any) -> None:
        optimizer.zero_grad()


class OneCycle(Loop):
    def schedule(self, optimizer: Any, steps: int) -> Any:
        return lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)


class WarmUp(Loop):
    def schedule(self, optimizer: Any, steps: int) -> Any:
        warm_up = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=10)
        return lr_scheduler.SequentialLR(
            optimizer, [warm_up, lr_scheduler.CosineAnnealingLR(optimizer, steps - 10)], [10]
        )


class OneCyclePerEpoch(OneCycle):
    def after_step(self, schedule: Any) -> None:
        pass

    def after_epoch(self, schedule: Any, optimizer: Any) -> None:
        schedule.step()


class NeverStepped(OneCycle):
    def after_step(self, schedule: Any) -> None:
        pass


class SteppedTwice(WarmUp):
    def schedule(self, optimizer: Any, steps: int) -> Any:
        return lr_scheduler.PolynomialLR(optimizer, steps)

    def after_step(self, schedule: Any) -> None:
        schedule.step()
        schedule.step()


class TwoTerms(Loop):
    optimizer, rate = torch.optim.Adam, 0.003

    def second(self, aux: nn.Module, outputs: Any, x: Any, number: int) -> torch.Tensor:
        return F.mse_loss(aux(outputs)[:, 0], x[:, 3])

    def loss(self, loss: Any, aux: nn.Module, outputs: Any, x: Any, y: Any, number: int) -> torch.Tensor:
        value: torch.Tensor = loss(outputs, y) + self.second(aux, outputs, x, number)
        return value


class Logged(TwoTerms):
    def loss(self, loss: Any, aux: nn.Module, outputs: Any, x: Any, y: Any, number: int) -> torch.Tensor:
        first, second = loss(outputs, y), self.second(aux, outputs, x, number)
        self.monitor.log(losses={"class": first, "other": second})
        total: torch.Tensor = first + second
        return total


class LargeTerm(Logged):
    def second(self, aux: nn.Module, outputs: Any, x: Any, number: int) -> torch.Tensor:
        return F.mse_loss(aux(outputs)[:, 0], 1000 * x[:, 3])


class NanTerm(Logged):
    def second(self, aux: nn.Module, outputs: Any, x: Any, number: int) -> torch.Tensor:
        return super().second(aux, outputs, x, number) * (1.0 if number < 90 else float("nan"))


class ConstantTerm(Logged):
    def second(self, aux: nn.Module, outputs: Any, x: Any, number: int) -> torch.Tensor:
        return torch.tensor(0.7) + 0 * outputs.sum()


class Penalty(TwoTerms):
    def second(self, aux: nn.Module, outputs: Any, x: Any, number: int) -> torch.Tensor:
        return 0.1 * outputs.square().mean()


@pytest.mark.parametrize("loop", [Loop, Accumulates, Clips, DividesLater, OneCycle, WarmUp, TwoTerms, Logged, Penalty])
def test_loops_without_a_fault_have_no_finding(loop: type[Loop]) -> None:
    findings = {name: f for name, f in loop().run().items() if "Resolved" not in f.message}
    assert findings == {}


@pytest.mark.parametrize(
    ("loop", "problem", "severity"),
    [
        (Sums, "wrong_accumulation", "error"),
        (SumsForAdam, "wrong_accumulation", "info"),
        (Drops, "wrong_accumulation", "warning"),
        (OneCyclePerEpoch, "wrong_schedule", "info"),
        (NeverStepped, "wrong_schedule", "info"),
        (SteppedTwice, "wrong_schedule", "warning"),
        (LargeTerm, "loss_term_imbalance", "error"),
        (NanTerm, "loss_term_imbalance", "error"),
        (ConstantTerm, "loss_term_imbalance", "warning"),
    ],
)
def test_fault_of_a_loop_is_found(loop: type[Loop], problem: str, severity: str) -> None:
    findings = loop().run()
    assert problem in findings, findings
    assert findings[problem].severity == severity, findings[problem]


def test_an_imbalance_is_the_root_of_what_it_causes() -> None:
    findings = NanTerm().run()
    assert findings["nonfinite"].caused_by == "loss_term_imbalance"
    assert "“other”" in findings["nonfinite"].message


def test_accumulation_is_measured() -> None:
    loop = Accumulates()
    loop.run()
    history = loop.monitor.history
    assert set(history.scalar("backward_passes")[1:]) == {4.0}  # the last layer is unused, as the first step shows
    assert set(history.scalar("loss_factor")[1:]) == {0.25}
    assert history.scalar("gradient_factor")[1:] == pytest.approx(1.0)
    assert history.scalar("loader_batches")[0] == 4
    assert loop.monitor.context.asked["epoch_batches"] == 32


class Resumed:
    """A training of two parts with Adam and a cosine schedule, each of which is watched."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.order = torch.from_numpy(np.random.default_rng(1).permutation(512))

    def part(self, objects: Any, steps: Iterator[int] | range) -> autotrainer.Monitor:
        model, optimizer, schedule = objects
        x, y, loss = torch.from_numpy(X), torch.from_numpy(Y), nn.CrossEntropyLoss()
        with autotrainer.watch(
            model, optimizer, loss_fn=loss, steps=160, select=CODES, overhead=1.0, log_dir=self.folder
        ) as monitor:
            for number in steps:
                rows = self.order[number * 16 % 512 :][:16]
                optimizer.zero_grad()
                loss(model(x[rows]), y[rows]).backward()
                optimizer.step()
                schedule.step()
        assert not monitor._failed
        return monitor

    def objects(self) -> Any:
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        return model, optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 160)

    def run(self, *, optimizer: bool, schedule: bool, data: bool) -> Finding | None:
        torch.manual_seed(0)
        first, second = self.objects(), self.objects()
        self.part(first, range(100))
        kept = True, optimizer, schedule
        if schedule:
            second[2].load_state_dict(copy.deepcopy(first[2].state_dict()))
        for old, new, keep in zip(first[:2], second[:2], kept[:2], strict=True):
            if keep:
                new.load_state_dict(copy.deepcopy(old.state_dict()))
        monitor = self.part(second, range(100, 160) if data else range(60))
        return next((f for f in monitor.findings if f.problem == "bad_resume"), None)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("", ""),
        ("optimizer", "the memory of the optimizer is empty"),
        ("schedule", "begins again"),
        ("data", "the data begin again"),
    ],
)
def test_what_a_resumed_training_has_lost(tmp_path: Path, lost: str, words: str) -> None:
    kept = {name: name != lost for name in ("optimizer", "schedule", "data")}
    finding = Resumed(tmp_path).run(**kept)
    assert (finding is not None) is bool(lost)
    if finding is not None:
        assert finding.severity is not Severity.INFO
        assert words in finding.message
        logs = sorted(tmp_path.glob("run-*.jsonl"), key=lambda path: path.stat().st_mtime)
        replayed = autotrainer.replay(logs[1], previous=logs[0], select="AT416").findings
        assert [f.message for f in replayed] == [finding.message]


def test_an_empty_memory_shows_without_a_log() -> None:
    finding = Resumed(None).run(optimizer=False, schedule=True, data=True)
    assert finding is not None
    assert finding.severity == "warning"


def _keras(second: Any, optimizer: Any, weight: float = 1.0) -> dict[str, Finding]:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(32, activation="relu")(keras.layers.Dense(32, activation="relu")(inputs))
    outputs = [keras.layers.Dense(2, name="kind")(hidden), keras.layers.Dense(1, name="size")(hidden)]
    model = keras.Model(inputs, outputs)
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    model.compile(optimizer, losses, loss_weights=[1.0, weight])
    with autotrainer.watch(model, select=CODES, overhead=1.0) as monitor:
        model.fit(X, [Y, second], batch_size=16, epochs=3, verbose=0)
    assert not monitor._failed
    return {finding.problem: finding for finding in monitor.findings}


def test_keras() -> None:
    target = X[:, 3:4]
    late = target.copy()
    late[200] = np.nan
    adam = keras.optimizers.Adam
    assert _keras(target, adam(0.003, gradient_accumulation_steps=4)) == {}
    assert _keras(target, adam(keras.optimizers.schedules.CosineDecay(0.003, 96))) == {}
    finding = _keras(1000 * target, adam(0.003))["loss_term_imbalance"]
    assert finding.severity in ("error", "warning")
    assert "“size_loss”" in finding.message
    findings = _keras(late, adam(0.003))
    assert "“size_loss”" in findings["loss_term_imbalance"].message
    assert findings["nonfinite"].caused_by == "loss_term_imbalance"
    assert _keras(target, adam(0.003), weight=0.0)["loss_term_imbalance"].severity == "info"
    assert _keras(target, adam(0.003, gradient_accumulation_steps=400))["wrong_accumulation"].severity == "error"
    assert "wrong_schedule" in _keras(target, adam(keras.optimizers.schedules.CosineDecay(0.01, 3)))
