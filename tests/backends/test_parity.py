"""Equal trainings in PyTorch and in Keras are measured equally."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch  # before TensorFlow, which can't be the first of the two

import keras  # isort: skip
from keras import layers as kl  # isort: skip

from autotrainer.backends.keras3.observer import observe as observe_keras
from autotrainer.backends.pytorch.observer import observe as observe_torch
from autotrainer.monitor import Monitor
from autotrainer.sampler import StepSampler
from autotrainer.signals import LAYER_COLUMNS, STEP_COLUMNS

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(56, 6).astype("float32") * 3
IMAGES = RANDOM.randn(56, 3, 6, 6).astype("float32")
Y = RANDOM.randint(0, 3, 56)
TARGETS = RANDOM.randn(56, 2).astype("float32")
STEPS = 7


class Dense(torch.nn.Module):
    def __init__(self, outputs: int, *, probability: bool = False) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(6, 8), torch.nn.Linear(8, 8)
        self.c, self.out = torch.nn.Linear(8, 8), torch.nn.Linear(8, outputs)
        self.probability = probability

    def forward(self, x: Any) -> Any:
        y = self.out(torch.sigmoid(self.c(torch.relu(self.b(torch.tanh(self.a(x)))))))
        return torch.sigmoid(y) if self.probability else y


class Conv(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.out(torch.relu(self.a(x)).mean(dim=(2, 3)))


def dense(outputs: int, activation: str = "linear") -> Any:
    layers = [kl.Dense(8, "tanh", name="a"), kl.Dense(8, "relu", name="b"), kl.Dense(8, "sigmoid", name="c")]
    return keras.Sequential([kl.Input((6,)), *layers, kl.Dense(outputs, activation, name="out")])


def conv() -> Any:
    layers = [kl.Conv2D(4, 3, activation="relu", name="a"), kl.GlobalAveragePooling2D(), kl.Dense(3, name="out")]
    return keras.Sequential([kl.Input((6, 6, 3)), *layers])


def by_torch(model: Any, loss_fn: Any, x: Any, y: Any) -> Monitor:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
    monitor = Monitor([], StepSampler(), quiet=True)
    monitor.attach(observe_torch(model, optimizer, loss_fn, monitor))
    for rows in np.split(np.arange(len(x)), STEPS):
        optimizer.zero_grad()
        loss_fn(model(torch.tensor(x[rows])), torch.tensor(y[rows])).backward()
        optimizer.step()
    monitor.close()
    return monitor


def by_keras(model: Any, loss: Any, x: Any, y: Any) -> Monitor:
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), loss)
    monitor = Monitor([], StepSampler(), quiet=True)
    monitor.attach(observe_keras(model, None, None, monitor))
    model.fit(x, y, batch_size=len(x) // STEPS, shuffle=False, verbose=0)
    monitor.close()
    return monitor


def copy_weights(source: torch.nn.Module, target: Any) -> None:
    """Give a Keras model the weights of a PyTorch model: dense kernels transposed, convolutions with channels last."""
    for name, module in source.named_children():
        weight, bias = (p.detach().numpy() for p in module.parameters())
        target.get_layer(name).set_weights([weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0), bias])


CASES = {
    "classes": (
        lambda: Dense(3),
        lambda: dense(3),
        torch.nn.CrossEntropyLoss,
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        (X, X, Y, Y),
    ),
    "regression": (lambda: Dense(2), lambda: dense(2), torch.nn.MSELoss, lambda: "mse", (X, X, TARGETS, TARGETS)),
    "one probability": (
        lambda: Dense(1, probability=True),
        lambda: dense(1, "sigmoid"),
        torch.nn.BCELoss,
        lambda: "binary_crossentropy",
        (X, X, (Y[:, None] > 0).astype("float32"), (Y[:, None] > 0).astype("float32")),
    ),
    "images": (
        Conv,
        conv,
        torch.nn.CrossEntropyLoss,
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        (IMAGES, IMAGES.transpose(0, 2, 3, 1), Y, Y),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_trainings_are_measured_equally(case: str) -> None:
    torch.manual_seed(0)
    torch_model, keras_model, torch_loss, keras_loss, (torch_x, keras_x, torch_y, keras_y) = CASES[case]
    theirs, ours = torch_model(), keras_model()
    copy_weights(theirs, ours)
    a = by_torch(theirs, torch_loss(), torch_x, torch_y)
    b = by_keras(ours, keras_loss(), keras_x, keras_y)
    assert a.history.steps.tolist() == b.history.steps.tolist() == list(range(STEPS))
    for column in STEP_COLUMNS:
        np.testing.assert_allclose(
            a.history.scalar(column), b.history.scalar(column), rtol=1e-4, atol=1e-6, err_msg=column
        )
    names = [info.name for info in a.history.layers]
    assert names == [info.name for info in b.history.layers]
    for column in LAYER_COLUMNS:
        for row, name in enumerate(names):
            one, other = a.history.layer(column)[:, row], b.history.layer(column)[:, row]
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=f"{column} of {name}")
    assert a.context.output_activation == b.context.output_activation
    assert a.context.output_units == b.context.output_units
    for mine, yours in zip(b.history.layers, a.history.layers, strict=True):
        assert (mine.kind, mine.activation, mine.units) == (yours.kind, yours.activation, yours.units)
        assert (mine.parameters, mine.hidden) == (yours.parameters, yours.hidden)
