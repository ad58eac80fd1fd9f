"""Equal trainings in PyTorch and in Keras have equal signals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch  # must be imported before TensorFlow

import keras  # isort: skip
from keras import layers as kl  # isort: skip

from autotrainer.backends.keras3.watching.observer import observe as observe_keras
from autotrainer.backends.pytorch.watching.attach import observe as observe_torch
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(56, 6).astype("float32") * 3
IMAGES = RANDOM.randn(56, 3, 6, 6).astype("float32")
Y = RANDOM.randint(0, 3, 56)
TARGETS = RANDOM.randn(56, 2).astype("float32")
STEPS = 7
FIRST = {"feature_rank": 1, "stale_gradients": STEPS, "crossed_shapes": STEPS, "data_loss": STEPS}
_ONE = ("backward_passes", "loss_factor", "gradient_factor", "loader_batches", "scheduler_steps", "optimizer_steps")
_ONE += ("discarded_passes", "outside_parameters", "outside_drawn", "targets_ignored")
FIRST |= dict.fromkeys(_ONE, STEPS)
"""Step from which a column exists in both: the first step shows PyTorch which layer produces the output, and Keras has
no gradients that could be stale, backward passes, schedulers that are stepped, nor losses that broadcast a column; only
its loss may hold further terms, only its SGD counts steps, and only its graph shows whether a loss reads targets."""


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


def by_torch(model: Any, loss_fn: Any, x: Any, y: Any, optimizer: Any = None) -> Monitor:
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5) if optimizer is None else optimizer
    monitor = Monitor([], StepSampler(), quiet=True)
    monitor.attach(observe_torch(model, optimizer, loss_fn, monitor))
    for rows in np.split(np.arange(len(x)), STEPS):
        optimizer.zero_grad()
        loss_fn(model(torch.tensor(x[rows])), torch.tensor(y[rows])).backward()
        optimizer.step()
    monitor.close()
    return monitor


def by_keras(model: Any, loss: Any, x: Any, y: Any, optimizer: Any = None) -> Monitor:
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5) if optimizer is None else optimizer, loss)
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
def test_equal_trainings_have_equal_signals(case: str) -> None:
    torch.manual_seed(0)
    torch_model, keras_model, torch_loss, keras_loss, (torch_x, keras_x, torch_y, keras_y) = CASES[case]
    theirs, ours = torch_model(), keras_model()
    copy_weights(theirs, ours)
    a = by_torch(theirs, torch_loss(), torch_x, torch_y)
    b = by_keras(ours, keras_loss(), keras_x, keras_y)
    assert a.history.steps.tolist() == b.history.steps.tolist() == list(range(STEPS))
    for column in STEP_COLUMNS:
        first = FIRST.get(column, 0)
        one, other = a.history.scalar(column)[first:], b.history.scalar(column)[first:]
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=column)
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


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.drop, self.out = torch.nn.Linear(8, 6), torch.nn.Dropout(1e-9), torch.nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        ahead = torch.ones(5, 5, dtype=torch.bool).triu(1)
        x = self.attention(x, x, x, attn_mask=ahead, need_weights=False)[0]
        return self.out(self.drop(torch.relu(self.hidden(x)).mean(dim=1)))


def attention(source: Attention) -> Any:
    """Return the same model with the same weights in Keras."""
    inputs = kl.Input((5, 8))
    layer = kl.MultiHeadAttention(2, 4, name="attention")
    x = kl.Dense(6, "relu", name="hidden")(layer(inputs, inputs, use_causal_mask=True))
    x = kl.Dropout(1e-9)(kl.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, kl.Dense(3, name="out")(x))
    theirs = source.attention
    kernels = theirs.in_proj_weight.detach().numpy().reshape(3, 8, 8)
    biases = theirs.in_proj_bias.detach().numpy().reshape(3, 2, 4)
    into = [w for kernel, bias in zip(kernels, biases, strict=True) for w in (kernel.T.reshape(8, 2, 4), bias)]
    out = theirs.out_proj
    layer.set_weights([*into, out.weight.detach().numpy().T.reshape(2, 4, 8), out.bias.detach().numpy()])
    for name in ("hidden", "out"):
        weight, bias = (p.detach().numpy() for p in getattr(source, name).parameters())
        model.get_layer(name).set_weights([weight.T, bias])
    return model


def test_attention_and_moment_signals_are_equal() -> None:
    torch.manual_seed(0)
    theirs = Attention()
    theirs.attention.in_proj_weight.data *= 6
    ours = attention(theirs)
    x = RANDOM.randn(56, 5, 8).astype("float32")
    loss = torch.nn.CrossEntropyLoss()
    a = by_torch(theirs, loss, x, Y, torch.optim.Adam(theirs.parameters(), 0.01, eps=1e-7))
    b = by_keras(ours, CASES["classes"][3](), x, Y, keras.optimizers.Adam(0.01))
    for column in ("gradient_cosine", "feature_rank", "training_mode", "class_entropy", "rare_accuracy"):
        first = FIRST.get(column, 0)
        one, other = a.history.scalar(column)[first:], b.history.scalar(column)[first:]
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5, err_msg=column)
    rows = [[info.name for info in m.history.layers].index for m in (a, b)]
    expected = {
        "attention": ("attention_entropy", "attention_max_logit"),
        "hidden": ("dormant", "second_moment_ratio"),
        "out": ("dormant", "second_moment_ratio"),
    }
    for name, columns in expected.items():
        for column in columns:
            one, other = (m.history.layer(column)[:, row(name)] for m, row in zip((a, b), rows, strict=True))
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5, err_msg=f"{column} of {name}")
            assert np.isfinite(one).all() == ((name, column) != ("out", "dormant"))
