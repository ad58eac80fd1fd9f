"""Faults of the training loop are found end to end; unusual loops without a fault have no finding."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ExponentialLR, LambdaLR, StepLR

import autotrainer
from autotrainer.records.findings import Finding, Severity

torch.set_num_threads(1)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(320, 8)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(np.int64)
LOOP = ("parameters_not_optimized", "missing_zero_grad", "wrong_training_mode", "wrong_schedule")


class Loop:
    """A plain training in PyTorch; subclasses replace single parts."""

    epochs, batch = 12, 16
    rate = 0.1

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 2),
        )

    def optimized(self, model: Any) -> Any:
        return model.parameters()

    def schedule(self, optimizer: Any) -> Any:
        return None

    def step(self, model: nn.Module, optimizer: Any, loss: Any, x: Any, y: Any, number: int) -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    def after_batch(self, schedule: Any) -> None:
        pass

    def after_epoch(self, schedule: Any) -> None:
        if schedule is not None:
            schedule.step()

    def begin_epoch(self, model: nn.Module, epoch: int, optimizer: Any) -> None:
        model.train()

    def begin_evaluation(self, model: nn.Module) -> None:
        model.eval()

    def run(self) -> dict[str, Finding]:
        torch.manual_seed(0)
        model, loss = self.model(), nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(self.optimized(model), self.rate, momentum=0.9)
        schedule = self.schedule(optimizer)
        x, y = torch.from_numpy(X), torch.from_numpy(Y)
        with autotrainer.watch(
            model, optimizer, loss_fn=loss, epochs=self.epochs, select=LOOP, overhead=1.0
        ) as monitor:
            number = 0
            for epoch in range(self.epochs):
                self.begin_epoch(model, epoch, optimizer)
                for rows in torch.randperm(256).split(self.batch):
                    self.step(model, optimizer, loss, x[rows], y[rows], number)
                    self.after_batch(schedule)
                    number += 1
                self.after_epoch(schedule)
                self.begin_evaluation(model)
                with torch.no_grad():
                    outputs = model(x[256:])
                    monitor.end_epoch(val_loss=loss(outputs, y[256:]), val_accuracy=_accuracy(outputs, y[256:]))
        assert not monitor._failed
        return {finding.problem: finding for finding in monitor.findings if finding.severity is not Severity.INFO}


def _accuracy(outputs: torch.Tensor, y: torch.Tensor) -> float:
    return float((outputs.argmax(1) == y).float().mean())


class MissingZeroGrad(Loop):
    def step(self, model: nn.Module, optimizer: Any, loss: Any, x: Any, y: Any, number: int) -> None:
        loss(model(x), y).backward()
        optimizer.step()


class ForgottenHead(Loop):
    def optimized(self, model: Any) -> Any:
        return model[:5].parameters()


class ForgottenZeroHead(ForgottenHead):
    """Zero weights pass no gradient back, so nothing is trained."""

    def model(self) -> nn.Module:
        model = super().model()
        nn.init.zeros_(model.get_submodule("6").weight)  # type: ignore[arg-type]
        return model


class RandomFeatures(Loop):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))

    def optimized(self, model: Any) -> Any:
        return model[4].parameters()


class EvaluatesInTrainingMode(Loop):
    def begin_evaluation(self, model: nn.Module) -> None:
        pass


class TrainsInEvaluationMode(Loop):
    rate = 0.01

    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(4, 2)).eval()

    def begin_epoch(self, model: nn.Module, epoch: int, optimizer: Any) -> None:
        pass


class ScheduleSteppedPerBatch(Loop):
    rate = 1e-3

    def schedule(self, optimizer: Any) -> Any:
        return ExponentialLR(optimizer, 0.7)

    def after_batch(self, schedule: Any) -> None:
        schedule.step()

    def after_epoch(self, schedule: Any) -> None:
        pass


class ScheduleNeverStepped(Loop):
    rate = 1e-4

    def schedule(self, optimizer: Any) -> Any:
        return StepLR(optimizer, 4)

    def after_epoch(self, schedule: Any) -> None:
        pass


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")
@pytest.mark.parametrize(
    ("loop", "problem", "severities"),
    [
        (MissingZeroGrad, "missing_zero_grad", {"error"}),
        (ForgottenHead, "parameters_not_optimized", {"error", "warning"}),  # earlier layers may compensate
        (ForgottenZeroHead, "parameters_not_optimized", {"error"}),
        (RandomFeatures, "parameters_not_optimized", {"error"}),
        (EvaluatesInTrainingMode, "wrong_training_mode", {"error"}),
        (TrainsInEvaluationMode, "wrong_training_mode", {"error", "warning"}),
        (ScheduleSteppedPerBatch, "wrong_schedule", {"error"}),
        (ScheduleNeverStepped, "wrong_schedule", {"warning"}),
    ],
)
def test_loop_faults_are_found(loop: type[Loop], problem: str, severities: set[str]) -> None:
    findings = loop().run()
    assert list(findings) == [problem]
    assert str(findings[problem].severity) in severities


class GradientAccumulation(Loop):
    def step(self, model: nn.Module, optimizer: Any, loss: Any, x: Any, y: Any, number: int) -> None:
        (loss(model(x), y) / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()


class LinearProbe(Loop):
    """A new head on a pretrained body."""

    def model(self) -> nn.Module:
        model = super().model()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
            optimizer.step()
        model.get_submodule("6").reset_parameters()  # type: ignore[operator]
        return model

    def optimized(self, model: Any) -> Any:
        return model[6].parameters()


class FineTuning(LinearProbe):
    """The body is frozen in evaluation mode at first, and its last layer joins the training later."""

    def model(self) -> nn.Module:
        model = super().model()
        for part in list(model)[:6]:  # type: ignore[call-overload]
            part.requires_grad_(False)
        return model

    def begin_epoch(self, model: nn.Module, epoch: int, optimizer: Any) -> None:
        model.train()
        for part in list(model)[:4]:  # type: ignore[call-overload]
            part.eval()
        if epoch == 4:
            added = model.get_submodule("4").requires_grad_(True)
            optimizer.add_param_group({"params": added.parameters(), "lr": 0.01})


class WarmUp(Loop):
    def schedule(self, optimizer: Any) -> Any:
        return LambdaLR(optimizer, lambda step: min(1.0, step / 60))

    def after_batch(self, schedule: Any) -> None:
        schedule.step()

    def after_epoch(self, schedule: Any) -> None:
        pass


class WarmRestarts(WarmUp):
    def schedule(self, optimizer: Any) -> Any:
        return CosineAnnealingWarmRestarts(optimizer, 48)


class MonteCarloDropout(Loop):
    """Predictions are averaged over dropout; the rest of the model is in evaluation mode."""

    def begin_evaluation(self, model: nn.Module) -> None:
        model.eval()
        model.get_submodule("3").train()


@pytest.mark.parametrize(
    "loop", [Loop, GradientAccumulation, LinearProbe, FineTuning, WarmUp, WarmRestarts, MonteCarloDropout]
)
def test_unusual_loops_have_no_finding(loop: type[Loop]) -> None:
    assert loop().run() == {}


def fit(rate: Any) -> dict[str, str]:
    """Train in Keras, and return severities by problem."""
    keras.utils.set_random_seed(0)
    parts = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2)]
    model = keras.Sequential([*parts, keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    with autotrainer.watch(model, select=LOOP, overhead=1.0) as monitor:
        model.fit(X, Y, epochs=12, batch_size=16, validation_split=0.2, verbose=0)
    assert not monitor._failed
    return {f.problem: str(f.severity) for f in monitor.findings if f.severity is not Severity.INFO}


def test_learning_rate_schedules_in_keras() -> None:
    schedules = keras.optimizers.schedules
    assert fit(schedules.ExponentialDecay(1e-3, decay_steps=1, decay_rate=0.7)) == {"wrong_schedule": "error"}
    assert fit(schedules.CosineDecay(1e-3, 12 * 16)) == {}
