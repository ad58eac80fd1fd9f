"""Trainings whose loss is the user's own: what judges them, and that working ones are healthy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import ops
from torch import nn
from torch.nn import functional as F

import autotrainer

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(600, 6)).astype(np.float32)
SIGNAL = (X[:, :1] + 0.7 * X[:, 1:2] * X[:, 2:3] - 0.5 * X[:, 3:4]).astype(np.float32)
REAL = SIGNAL + 0.3 * RANDOM.normal(size=SIGNAL.shape).astype(np.float32)
NOISY = SIGNAL + 1.5 * RANDOM.normal(size=SIGNAL.shape).astype(np.float32)
COUNTS = RANDOM.poisson(np.exp(0.5 * SIGNAL + 0.5)).astype(np.float32)
AMOUNTS = RANDOM.gamma(2, np.exp(0.7 * SIGNAL + 1) / 2).astype(np.float32)
RARE = (REAL > 1.2).astype(np.float32)
WIDE = np.tanh(X @ RANDOM.normal(size=(6, 12))).astype(np.float32)
VIEWS = np.concatenate([X + 0.1 * RANDOM.normal(size=X.shape) for _ in "ab"], axis=1).astype(np.float32)
ZEROS = np.zeros((600, 1), np.float32)
DUMMIES = RANDOM.integers(0, 4, 600)
OTHERS = RANDOM.normal(size=X.shape).astype(np.float32)


class Rebuilt(nn.Module):
    """Outputs of an autoencoder, and its inputs, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 12))

    def forward(self, x: Any) -> Any:
        return torch.cat([self.layers(x), x], 1)


class BothViews(nn.Module):
    """Embeddings of two views, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = net(8)

    def forward(self, x: Any) -> Any:
        return torch.cat([self.layers(x[:, :6]), self.layers(x[:, 6:])], 1)


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 8), nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 12))

    def forward(self, x: Any) -> Any:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (log_variance / 2).exp()), x, mean, log_variance


def net(units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, units))


def variational(outputs: Any, _: Any) -> Any:
    rebuilt, x, mean, log_variance = outputs
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
    return ((rebuilt - x) ** 2).sum(1).mean() + 0.05 * divergence.mean()


def pairs(o: Any, y: Any) -> Any:
    order = torch.sign(y - y.T)
    return F.softplus(-order * (o - o.T))[order != 0].mean()


def views(o: Any, _: Any) -> Any:
    first, second = F.normalize(o[:, :8]), F.normalize(o[:, 8:])
    return F.cross_entropy(first @ second.T / 0.2, torch.arange(len(o)))


def focal(o: Any, y: Any) -> Any:
    entropy = F.binary_cross_entropy_with_logits(o, y, reduction="none")
    return ((1 - (-entropy).exp()) ** 2 * entropy).mean()


torch.manual_seed(0)
PYTORCH: dict[str, tuple[Any, Any, Any, Any]] = {
    "Poisson": (net(1), X, COUNTS, lambda o, y: (o.exp() - y * o).mean()),
    "gamma": (net(1), X, AMOUNTS, lambda o, y: (o + y * (-o).exp()).mean()),
    "quantile": (net(1), X, NOISY, lambda o, y: torch.maximum(0.9 * (y - o), -0.1 * (y - o)).mean()),
    "ranks": (net(1), X, REAL, pairs),
    "autoencoder": (Rebuilt(), WIDE, ZEROS, lambda o, _: ((o[:, :12] - o[:, 12:]) ** 2).mean()),
    "variational": (Variational(), WIDE, ZEROS, variational),
    "views": (BothViews(), VIEWS, DUMMIES, views),
    "squared": (net(1), X, REAL, lambda o, y: ((o - y) ** 2).mean()),
    "absolute": (net(1), X, REAL, lambda o, y: (o - y).abs().mean()),
    "median": (net(1), X, NOISY, lambda o, y: torch.maximum(0.5 * (y - o), -0.5 * (y - o)).mean()),
    "focal": (net(1), X, RARE, focal),
}


def _fit_pytorch(name: str, rate: float = 3e-3, x: Any = None) -> Any:
    model, inputs, targets, loss = PYTORCH[name]
    optimizer = lambda parameters: torch.optim.Adam(parameters, rate)  # noqa: E731
    inputs = inputs if x is None else x
    return autotrainer.fit(
        model, (inputs, targets), loss=loss, optimizer=optimizer, epochs=15, repair=False, progress=False
    )


def _errors(result: Any) -> list[str]:
    return [finding.problem for finding in result.findings if finding.severity == "error"]


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("Poisson", "negative loss"),
        ("gamma", "negative loss"),
        ("quantile", "negative loss"),
        ("ranks", "negative loss"),
        ("autoencoder", "negative loss"),
        ("variational", "negative loss"),
        ("views", "negative loss"),
        ("squared", "r2"),
        ("absolute", "r2"),
        ("median", "r2"),
        ("focal", "accuracy"),
    ],
)
def test_healthy_pytorch(name: str, metric: str) -> None:
    result = _fit_pytorch(name)
    assert result.metric == metric
    assert (result.status, _errors(result)) == ("healthy", [])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Poisson", {"rate": 1e-7}),
        ("ranks", {"rate": 1e-7}),
        ("autoencoder", {"rate": 1e-7}),
        ("Poisson", {"x": OTHERS}),
        ("quantile", {"x": OTHERS}),
        ("ranks", {"x": OTHERS}),
    ],
)
def test_faulty_pytorch(name: str, change: dict[str, Any]) -> None:
    result = _fit_pytorch(name, **change)
    assert result.status == "unrepaired"
    assert _errors(result)


def dense(units: int, inputs: int = 6) -> Any:
    return keras.Sequential(
        [keras.Input((inputs,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(units)]
    )


def rebuilt() -> Any:
    inputs = keras.Input((12,))
    hidden = dense(6, 12)(inputs)
    return keras.Model(inputs, keras.layers.Concatenate()([dense(12)(hidden), inputs]))


def keras_pairs(y: Any, o: Any) -> Any:
    order = ops.sign(y - ops.transpose(y))
    return ops.mean(ops.softplus(-order * (o - ops.transpose(o))))


def keras_focal(y: Any, o: Any) -> Any:
    entropy = ops.softplus(o) - y * o
    return ops.mean((1 - ops.exp(-entropy)) ** 2 * entropy)


def keras_variance(y: Any, o: Any) -> Any:
    """Return the negative log-likelihood of normal distributions, by mean and variance."""
    variance = ops.softplus(o[:, 1:]) + 1e-6
    return ops.mean(0.5 * (ops.log(variance) + (y - o[:, :1]) ** 2 / variance))


KERAS: dict[str, tuple[Any, Any, Any, Any]] = {
    "Poisson": (lambda: dense(1), X, COUNTS, lambda y, o: ops.mean(ops.exp(o) - y * o)),
    "quantile": (lambda: dense(1), X, NOISY, lambda y, o: ops.mean(ops.maximum(0.9 * (y - o), -0.1 * (y - o)))),
    "ranks": (lambda: dense(1), X, REAL, keras_pairs),
    "autoencoder": (rebuilt, WIDE, ZEROS, lambda _, o: ops.mean((o[:, :12] - o[:, 12:]) ** 2)),
    "variance": (lambda: dense(2), X, REAL, keras_variance),
    "variance of prices": (lambda: dense(2), X, 300 * REAL + 5000, keras_variance),
    "squared": (lambda: dense(1), X, REAL, lambda y, o: ops.mean((o - y) ** 2)),
    "focal": (lambda: dense(1), X, RARE, keras_focal),
}


def _fit_keras(name: str, rate: float = 3e-3, x: Any = None) -> Any:
    make, inputs, targets, loss = KERAS[name]
    keras.utils.set_random_seed(0)
    inputs = inputs if x is None else x
    optimizer = keras.optimizers.Adam(rate)
    return autotrainer.fit(
        make(), (inputs, targets), loss=loss, optimizer=optimizer, epochs=15, repair=False, progress=False
    )


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("Poisson", "negative loss"),
        ("quantile", "negative loss"),
        ("ranks", "negative loss"),
        ("autoencoder", "negative loss"),
        ("variance", "negative loss"),
        ("squared", "r2"),
        ("focal", "accuracy"),
    ],
)
def test_healthy_keras(name: str, metric: str) -> None:
    result = _fit_keras(name)
    assert result.metric == metric
    assert (result.status, _errors(result)) == ("healthy", [])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Poisson", {"rate": 1e-7}),
        ("Poisson", {"x": OTHERS}),
        ("ranks", {"x": OTHERS}),
        ("variance of prices", {}),
    ],
)
def test_faulty_keras(name: str, change: dict[str, Any]) -> None:
    result = _fit_keras(name, **change)
    assert result.status == "unrepaired"
    assert _errors(result)
