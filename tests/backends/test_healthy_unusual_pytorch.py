"""Unusual but healthy trainings in PyTorch: none may have an error at any time, or a warning at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.monitoring.engine import Engine
from autotrainer.records.findings import Finding, Severity
from autotrainer.registry import make_rules

RANDOM = np.random.default_rng(0)


def numbers() -> np.random.Generator:
    return np.random.default_rng(1)


def tensor(values: Any) -> Tensor:
    values = np.asarray(values)
    return torch.tensor(values if values.dtype == np.int64 else values.astype("float32"))


X = tensor(RANDOM.normal(size=(640, 8)))
CLASSES = X[:, :3].argmax(1)
VALUES = X[:, :1] * 2 + torch.sin(2 * X[:, 1:2])
POINTS = tensor(RANDOM.normal(size=(640, 2)) @ RANDOM.normal(size=(2, 12)) / 2)
TOKENS = (torch.arange(17)[None] * tensor(RANDOM.integers(1, 4, size=(320, 1))) + torch.arange(320)[:, None]) % 24


@dataclass
class Run:
    """One training: its objects, one epoch, and its final score."""

    model: nn.Module
    optimizer: Any
    loss: Callable[..., Tensor] | None
    epoch: Callable[[Any], None]
    score: Callable[[], float]
    minimum_score: float
    """Minimum score of a healthy training."""
    epochs: int = 15


Case = Callable[[], Run]
CASES: dict[str, Case] = {}
SLOW = ("transformer_without_warm_up", "masked_tokens")


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def mlp(sizes: tuple[int, ...] = (8, 32, 32, 3), kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), kind()]
    return nn.Sequential(*layers[:-1])


def batches(*data: Tensor, size: int = 32) -> Iterator[tuple[Tensor, ...]]:
    order = torch.randperm(len(data[0]))
    for i in range(0, len(order) - size + 1, size):
        yield tuple(values[order[i : i + size]] for values in data)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        right = float((model(x).argmax(-1) == y).float().mean())
    model.train()
    return right


def explained(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return R²."""
    model.eval()
    with torch.no_grad():
        error = float(((model(x) - y) ** 2).mean())
    model.train()
    return 1 - error / float(((y - y.mean(0)) ** 2).mean())


def plain(
    model: nn.Module,
    optimizer: Any,
    loss: nn.Module | None = None,
    *,
    x: Tensor = X,
    y: Tensor = CLASSES,
    minimum_score: float = 0.85,
    size: int = 32,
    scheduler: Any = None,
    clip: float | None = None,
    accumulate: int = 1,
    after: Callable[[], object] = bool,
    score: Callable[[], float] | None = None,
    **more: Any,
) -> Run:
    """Return a training with the usual loop, on classes or on values."""
    loss = loss or nn.CrossEntropyLoss()

    def epoch(monitor: Any) -> None:
        for number, (a, b) in enumerate(batches(x, y, size=size), start=1):
            (loss(model(a), b) / accumulate).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                if scheduler is not None:
                    scheduler.step()
                after()

    measure = explained if y.is_floating_point() else accuracy
    score = score or (lambda: measure(model, x, y))
    return Run(model, optimizer, loss, epoch, score, minimum_score, **more)


def told(
    model: nn.Module, optimizer: Any, step: Callable[[Tensor], Tensor], x: Tensor, *, size: int = 32, **more: Any
) -> Run:
    """Return a training whose loss is a function of the batch, passed to `Monitor.log`."""

    def epoch(monitor: Any) -> None:
        for (a,) in batches(x, size=size):
            optimizer.zero_grad()
            loss = step(a)
            monitor.log(loss=loss)
            loss.backward()
            optimizer.step()

    return Run(model, optimizer, None, epoch, **more)


def adam(model: nn.Module, rate: float = 0.01, **more: Any) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), rate, **more)


def sgd(model: nn.Module, rate: float = 0.05) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), rate, momentum=0.9)


def rates(optimizer: Any, factor: Callable[[float], float], steps: int = 300) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(min(1.0, step / steps)))


# -- data ---------------------------------------------------------------------------------------------------------


@case
def sparse_inputs() -> Run:
    x = tensor(numbers().random((640, 100)) < 0.05)
    y = (x[:, :50].sum(1) > x[:, 50:].sum(1)).long()
    model = mlp((100, 32, 2))
    return plain(model, adam(model, 0.005), x=x, y=y, epochs=15)


@case
def tiny_data() -> Run:
    model = mlp((8, 16, 1), nn.Tanh)
    return plain(model, adam(model, 0.01), nn.MSELoss(), x=X[:30], y=VALUES[:30], size=10, epochs=80)


@case
def heavy_tailed_noise() -> Run:
    noise = tensor(numbers().standard_t(3, size=(640, 1)))
    y = 1.3 * X[:, :1] + noise
    model = mlp((8, 8, 1))
    return plain(model, adam(model, 0.003), nn.MSELoss(), x=X, y=y, minimum_score=0.15)


@case
def noisy_labels() -> Run:
    x = tensor(numbers().normal(size=(1920, 8)))
    y = torch.where(torch.rand(1920) < 0.7, (x[:, 0] + x[:, 1] > 0).long(), (x[:, 0] + x[:, 1] <= 0).long())
    model = mlp((8, 16, 2))
    return plain(model, adam(model, 0.003), x=x, y=y, epochs=8, minimum_score=0.65)


@case
def imbalance_that_is_learned() -> Run:
    x = tensor(numbers().normal(size=(1280, 8)))
    y = (x[:, 0] > 1.7).long()
    model = mlp((8, 16, 2))
    return plain(model, adam(model, 0.02), x=x, y=y, epochs=20, minimum_score=0.98)


@case
def untouched_rows_of_an_embedding() -> Run:
    words = tensor(numbers().integers(0, 50, size=(640, 6)))
    y = ((words < 25).sum(1) > 3).long()
    model = nn.Sequential(nn.Embedding(5000, 8), nn.Flatten(), nn.Linear(48, 2))
    return plain(model, adam(model, 0.02), x=words, y=y)


@case
def sorted_evaluation_data() -> Run:
    model = mlp()
    order, loss = CLASSES.argsort(), nn.CrossEntropyLoss()
    run = plain(model, adam(model), loss, epochs=10)
    train = run.epoch

    def epoch(monitor: Any) -> None:
        train(monitor)
        model.eval()
        with torch.no_grad():
            for i in range(0, 640, 32):
                rows = order[i : i + 32]
                loss(model(X[rows]), CLASSES[rows])
        model.train()

    run.epoch = epoch
    return run


# -- regularization -----------------------------------------------------------------------------------------------


@case
def heavy_dropout() -> Run:
    model = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3)
    )
    return plain(model, adam(model, 0.005))


@case
def strong_weight_decay() -> Run:
    model = mlp()
    return plain(model, torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1))


# -- learning rates -----------------------------------------------------------------------------------------------


@case
def warm_up_from_zero() -> Run:
    model = mlp()
    optimizer = adam(model)
    return plain(model, optimizer, scheduler=rates(optimizer, lambda t: min(1.0, t / 0.3)))


@case
def cosine_to_zero() -> Run:
    model = mlp()
    optimizer = adam(model)
    return plain(model, optimizer, scheduler=rates(optimizer, lambda t: 0.5 + 0.5 * math.cos(math.pi * t)))


@case
def cyclic_rate() -> Run:
    model = mlp()
    optimizer = sgd(model, 0.1)
    cycle = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.001, 0.1, step_size_up=40)
    return plain(model, optimizer, scheduler=cycle)


@case
def one_cycle() -> Run:
    model = mlp()
    optimizer = adam(model)
    return plain(model, optimizer, scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=301))


@case
def reduced_on_plateau() -> Run:
    model = mlp()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    run = plain(model, optimizer, epochs=25)
    train = run.epoch

    def epoch(monitor: Any) -> None:
        train(monitor)
        scheduler.step(1 - accuracy(model, X, CLASSES))

    run.epoch = epoch
    return run


# -- what is trained ----------------------------------------------------------------------------------------------


def pretrained() -> nn.Sequential:
    """Return a network pretrained on another task."""
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    whole = nn.Sequential(model, nn.Linear(32, 8))
    optimizer = adam(whole)
    for _ in range(10):
        for (a,) in batches(X):
            optimizer.zero_grad()
            F.mse_loss(whole(a), a).backward()
            optimizer.step()
    return model


@case
def fine_tuning_with_frozen_layers() -> Run:
    body = pretrained()
    model = nn.Sequential(body, nn.Linear(32, 3))
    for part in (body[0], body[1]):
        for parameter in part.parameters():
            parameter.requires_grad_(False)
    run = plain(model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.005))
    train = run.epoch

    def epoch(monitor: Any) -> None:
        model.train()
        body[1].eval()
        train(monitor)

    run.epoch = epoch
    return run


@case
def linear_probing() -> Run:
    model = nn.Sequential(pretrained(), nn.Linear(32, 3))
    return plain(model, torch.optim.Adam(model[1].parameters(), 0.02), epochs=20)


class LowRank(nn.Module):
    """A frozen layer with a trainable low-rank update (LoRA), which starts at zero."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 4, bias=False), nn.Linear(4, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


@case
def low_rank_adaptation() -> Run:
    body = pretrained()
    body.requires_grad_(False)
    body[0], body[3] = LowRank(body[0]), LowRank(body[3])
    model = nn.Sequential(body, nn.Linear(32, 3))
    return plain(model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.005))


@case
def output_layer_of_zeros() -> Run:
    model = mlp()
    nn.init.zeros_(model[-1].weight)
    return plain(model, adam(model))


class Experts(nn.Module):
    """Mixture of experts: each row passes through one of eight networks, and the others get no gradient from it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 8), nn.ModuleList([mlp((8, 16, 3)) for _ in range(8)])

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = torch.softmax(self.gate(x), 1).max(1)
        made = x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            if rows.any():
                made[rows] = expert(x[rows]) * share[rows, None]
        return made


@case
def mixture_of_experts() -> Run:
    model = Experts()
    return plain(model, adam(model))


class StochasticDepth(nn.Module):
    """Skips each residual layer with probability one half in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(8, 32), nn.Linear(32, 3)
        self.inner = nn.ModuleList([nn.Linear(32, 32) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for layer in self.inner:
            if not self.training or torch.rand(()) < 0.5:
                x = x + torch.relu(layer(x))
        return self.out(x)


@case
def stochastic_depth() -> Run:
    model = StochasticDepth()
    return plain(model, adam(model, 0.003))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


@case
def periodic_activations() -> Run:
    """Sitzmann et al. 2020: weights that look far too small, and an inner factor of 30."""
    model = nn.Sequential(nn.Linear(1, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 1))
    with torch.no_grad():
        model[0].weight.uniform_(-1, 1)
        for layer in (model[2], model[4]):
            layer.weight.uniform_(-math.sqrt(6 / 64) / 30, math.sqrt(6 / 64) / 30)
    at = torch.linspace(-1, 1, 512)[:, None]
    return plain(model, adam(model, 1e-3), nn.MSELoss(), x=at, y=torch.sin(20 * at) * torch.cos(5 * at))


@case
def two_optimizers_of_a_gan() -> Run:
    maker, judge = mlp((4, 16, 1)), mlp((1, 16, 1))
    model = nn.ModuleDict({"maker": maker, "judge": judge})
    optimizers = [torch.optim.Adam(part.parameters(), 0.003, betas=(0.5, 0.9)) for part in (maker, judge)]

    def epoch(monitor: Any) -> None:
        for _ in range(20):
            real, made = torch.randn(64, 1) * 0.5 + 2, maker(torch.randn(64, 4))
            optimizers[1].zero_grad()
            loss = F.softplus(-judge(real)).mean() + F.softplus(judge(made.detach())).mean()
            monitor.log(loss=loss)
            loss.backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            loss = F.softplus(-judge(maker(torch.randn(64, 4)))).mean()
            monitor.log(loss=loss)
            loss.backward()
            optimizers[0].step()

    def score() -> float:
        with torch.no_grad():
            return -abs(float(maker(torch.randn(2000, 4)).mean()) - 2)

    return Run(model, optimizers, None, epoch, score, -0.7)


@case
def weights_tied() -> Run:
    class TiedOutput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.inner, self.out = nn.Embedding(24, 32), nn.GRU(32, 32, batch_first=True), nn.Linear(32, 24)
            self.out.weight = self.words.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.inner(self.words(tokens))[0]).transpose(1, 2)

    model = TiedOutput()
    return language(model, adam(model))


@case
def averaged_weights() -> Run:
    model = mlp()
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.95))
    return plain(model, adam(model), after=lambda: averaged.update_parameters(model))


@case
def batch_norm_last() -> Run:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3), nn.BatchNorm1d(3))
    return plain(model, adam(model, 0.02))


@case
def many_inactive_units() -> Run:
    model = mlp((8, 2048, 3))
    nn.init.constant_(model[0].bias, -1.0)
    return plain(model, adam(model, 0.001))


# -- how steps are made -------------------------------------------------------------------------------------------


@case
def gradient_accumulation() -> Run:
    model = mlp()
    return plain(model, adam(model, 0.02), accumulate=4, epochs=40)


@case
def batch_size_one() -> Run:
    model = mlp((8, 16, 3))
    return plain(model, adam(model, 0.003), x=X[:200], y=CLASSES[:200], size=1, epochs=4)


@case
def full_batch() -> Run:
    model = mlp()
    return plain(model, adam(model), size=640, epochs=250)


@case
def clipped_gradients() -> Run:
    model = mlp()
    return plain(model, sgd(model), clip=1.0)


@case
def half_precision() -> Run:
    model = mlp()
    optimizer, loss = adam(model), nn.CrossEntropyLoss()

    def epoch(monitor: Any) -> None:
        for a, b in batches(X, CLASSES):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model(a), b)
            value.backward()
            optimizer.step()

    return Run(model, optimizer, loss, epoch, lambda: accuracy(model, X, CLASSES), 0.85)


@case
def closure_of_lbfgs() -> Run:
    model, loss = mlp((8, 16, 1), nn.Tanh), nn.MSELoss()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)

    def epoch(monitor: Any) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(model(X), VALUES)
            value.backward()
            return value

        for _ in range(10):
            optimizer.step(closure)

    return Run(model, optimizer, loss, epoch, lambda: explained(model, X, VALUES), 0.9)


@case
def long_plateau_at_the_optimum() -> Run:
    model = nn.Linear(8, 1)
    y = X[:, :1] * 2 - X[:, 1:2] + 0.1 * torch.randn(640, 1)
    return plain(model, sgd(model), nn.MSELoss(), y=y, epochs=60)


# -- losses -------------------------------------------------------------------------------------------------------


@case
def bandit_by_reinforce() -> Run:
    model = mlp((8, 16, 3))
    optimizer = adam(model)

    def step(a: Tensor) -> Tensor:
        chances = torch.distributions.Categorical(logits=model(a))
        action = chances.sample()
        reward = (action == a[:, :3].argmax(1)).float() + 0.5 * torch.randn(len(a))
        return -(chances.log_prob(action) * (reward - 0.5)).mean()

    return told(model, optimizer, step, X, score=lambda: accuracy(model, X, CLASSES), minimum_score=0.8, epochs=25)


@case
def contrastive_loss() -> Run:
    model = mlp((12, 32, 8))

    def step(a: Tensor) -> Tensor:
        one, two = (F.normalize(model(a + 0.1 * torch.randn_like(a)), dim=1) for _ in range(2))
        return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(a)))

    def score() -> float:
        with torch.no_grad():
            return -float(step(POINTS[:64]))

    return told(model, adam(model, 0.003), step, POINTS, size=64, score=score, minimum_score=-3.0, epochs=30)


@case
def negative_likelihood() -> Run:
    model, loss = mlp((8, 32, 2)), nn.GaussianNLLLoss()
    y = X[:, :1] * 0.1 + 0.01 * torch.randn(640, 1)
    optimizer = adam(model, 0.005)

    def epoch(monitor: Any) -> None:
        for a, b in batches(X, y):
            optimizer.zero_grad()
            mean, spread = model(a).chunk(2, 1)
            value = loss(mean, b, F.softplus(spread) * 0.05)
            value.backward()
            optimizer.step()

    def score() -> float:
        with torch.no_grad():
            return 1 - float(((model(X)[:, :1] - y) ** 2).mean() / y.var())

    return Run(model, optimizer, loss, epoch, score, 0.8, epochs=20)


class VariationalAutoencoder(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((12, 32, 8)), mlp((4, 32, 12))

    def forward(self, x: Tensor) -> Any:
        mean, spread = self.encode(x).chunk(2, 1)
        return self.decode(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread


@case
def variational_autoencoder() -> Run:
    model = VariationalAutoencoder()

    def step(a: Tensor) -> Tensor:
        made, mean, spread = model(a)
        apart = 0.5 * (spread.exp() + mean**2 - 1 - spread).sum(1).mean()
        return 20 * F.mse_loss(made, a, reduction="none").sum(1).mean() + apart

    def score() -> float:
        with torch.no_grad():
            return 1 - float(F.mse_loss(model(POINTS)[0], POINTS) / POINTS.var())

    return told(model, adam(model, 0.005), step, POINTS, score=score, minimum_score=0.6, epochs=20)


@case
def narrow_autoencoder() -> Run:
    model = nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 2), nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 12)
    )
    return plain(model, adam(model), nn.MSELoss(), x=POINTS, y=POINTS)


@case
def distillation() -> Run:
    model, loss = mlp(), nn.KLDivLoss(reduction="batchmean")
    optimizer = adam(model)
    targets = torch.softmax(3 * X[:, :3], 1)

    def epoch(monitor: Any) -> None:
        for a, b in batches(X, targets):
            optimizer.zero_grad()
            loss(torch.log_softmax(model(a), 1), b).backward()
            optimizer.step()

    return Run(model, optimizer, loss, epoch, lambda: accuracy(model, X, CLASSES), 0.85)


@case
def counts_by_their_logarithm() -> Run:
    model = mlp((8, 16, 1))

    def score() -> float:
        with torch.no_grad():
            return float(torch.corrcoef(torch.stack([model(X)[:, 0].exp(), (X[:, 0] / 2).exp()]))[0, 1])

    y = torch.poisson((X[:, :1] / 2).exp())
    return plain(model, adam(model, 0.005), nn.PoissonNLLLoss(), y=y, score=score, minimum_score=0.7)


class Pinball(nn.Module):
    """Loss of the 90 % quantile."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error = targets - outputs
        return torch.maximum(0.9 * error, -0.1 * error).mean()


@case
def quantile_of_noisy_values() -> Run:
    model, y = mlp((8, 16, 1)), X[:, :1] + torch.randn(640, 1)

    def score() -> float:
        with torch.no_grad():
            return -abs(float((y < model(X)).float().mean()) - 0.9)

    return plain(model, adam(model, 0.005), Pinball(), y=y, score=score, minimum_score=-0.05)


class PairwiseRanking(nn.Module):
    """Loss on the order of all pairs: outputs may have any scale."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.softplus(-(outputs - outputs.T) * torch.sign(targets - targets.T)).mean()


class Correlation(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 1 - torch.corrcoef(torch.stack([outputs[:, 0], targets[:, 0]]))[0, 1]


class Survival(nn.Module):
    """Cox's partial likelihood: longer survival means smaller risk."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        risk = outputs[torch.argsort(targets[:, 0], descending=True), 0]
        return (torch.logcumsumexp(risk, 0) - risk).mean()


def on_another_scale(loss: nn.Module, y: Tensor, sign: int = 1) -> Run:
    """Return a training whose outputs need only increase (or decrease) with the targets."""
    model = mlp((8, 16, 1))

    def score() -> float:
        with torch.no_grad():
            return sign * float(torch.corrcoef(torch.stack([model(X)[:, 0], y.log()[:, 0]]))[0, 1])

    return plain(model, adam(model), loss, y=y, score=score, minimum_score=0.9)


@case
def ranks_of_prices() -> Run:
    return on_another_scale(PairwiseRanking(), 5000 + 100 * X[:, :1])


@case
def correlation_with_prices() -> Run:
    return on_another_scale(Correlation(), 5000 + 100 * X[:, :1])


@case
def survival_times() -> Run:
    return on_another_scale(Survival(), (X[:, :1] + 0.3 * torch.randn(640, 1)).exp(), sign=-1)


@case
def q_learning() -> Run:
    """Targets come from a copy of the network and grow with it."""
    model, loss = mlp((8, 32, 3)), nn.SmoothL1Loss()
    copied, optimizer = mlp((8, 32, 3)), adam(model, 0.003)

    def epoch(monitor: Any) -> None:
        copied.load_state_dict(model.state_dict())
        for (a,) in batches(X):
            action = torch.randint(3, (len(a), 1))
            reward = (action[:, 0] == a[:, :3].argmax(1)).float() + 0.5 * torch.randn(len(a))
            with torch.no_grad():
                later = copied(torch.randn(len(a), 8)).max(1).values * (torch.rand(len(a)) < 0.9)
            optimizer.zero_grad()
            loss(model(a).gather(1, action)[:, 0], reward + 0.9 * later).backward()
            optimizer.step()

    return Run(model, optimizer, loss, epoch, lambda: accuracy(model, X, CLASSES), 0.75, epochs=25)


@case
def bootstrapped_views() -> Run:
    """Two views of the same rows are pulled together without negative pairs; a slow copy provides the targets."""
    encode, predict = mlp((12, 32, 8)), nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
    slow, loss = mlp((12, 32, 8)), nn.MSELoss()
    slow.load_state_dict(encode.state_dict())
    model = nn.ModuleList([encode, predict])
    optimizer = adam(model, 0.003)

    def epoch(monitor: Any) -> None:
        for (a,) in batches(POINTS, size=64):
            one = F.normalize(predict(encode(a + 0.1 * torch.randn_like(a))), dim=1)
            with torch.no_grad():
                two = F.normalize(slow(a + 0.1 * torch.randn_like(a)), dim=1)
            optimizer.zero_grad()
            loss(one, two).backward()
            optimizer.step()
            for old, new in zip(slow.parameters(), encode.parameters(), strict=True):
                old.data.lerp_(new.data, 0.02)

    def score() -> float:
        with torch.no_grad():
            return float(F.normalize(encode(POINTS), dim=1).std(0).mean())

    return Run(model, optimizer, loss, epoch, score, 0.1, epochs=30)


@case
def triplet_loss() -> Run:
    model, loss = mlp((8, 32, 4)), nn.TripletMarginLoss()
    optimizer = adam(model, 0.003)

    def epoch(monitor: Any) -> None:
        for a, b in batches(X, CLASSES):
            optimizer.zero_grad()
            made = model(a)
            alike = torch.stack([made[(b == c)][torch.randint(int((b == c).sum()), (1,))][0] for c in b])
            other = torch.stack([made[(b != c)][torch.randint(int((b != c).sum()), (1,))][0] for c in b])
            value = loss(made, alike, other)
            value.backward()
            optimizer.step()

    def score() -> float:
        with torch.no_grad():
            made = model(X)
        nearest = (torch.cdist(made, made) + torch.eye(640) * 1e9).argmin(1)
        return float((CLASSES[nearest] == CLASSES).float().mean())

    return Run(model, optimizer, loss, epoch, score, 0.85, epochs=10)


@case
def multi_label() -> Run:
    y = (X[:, :4] > 0.8).float()
    model = mlp((8, 32, 4))

    def score() -> float:
        with torch.no_grad():
            return float(((model(X) > 0) == y.bool()).float().mean())

    return plain(model, adam(model), nn.BCEWithLogitsLoss(), y=y, score=score, minimum_score=0.93)


@case
def two_tasks() -> Run:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.classes, self.values = mlp((8, 32, 32)), nn.Linear(32, 3), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Any:
            inner = torch.relu(self.body(x))
            return self.classes(inner), self.values(inner)

    model = Both()
    optimizer = adam(model)

    def epoch(monitor: Any) -> None:
        for a, b, c in batches(X, CLASSES, VALUES):
            optimizer.zero_grad()
            one, two = model(a)
            loss = F.cross_entropy(one, b) + F.mse_loss(two, c)
            monitor.log(loss=loss)
            loss.backward()
            optimizer.step()

    def score() -> float:
        with torch.no_grad():
            return float((model(X)[0].argmax(1) == CLASSES).float().mean())

    return Run(model, optimizer, None, epoch, score, 0.85)


@case
def siamese_network() -> Run:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = mlp((4, 32, 8)), nn.Linear(8, 1)

        def forward(self, pairs: Tensor) -> Tensor:
            one, two = (self.inner(part) for part in pairs.chunk(2, 1))
            return self.out((one - two).abs())

    x = X.clone()
    y = (torch.rand(640, 1) < 0.5).float()
    x[:, 4:] = torch.where(y > 0, x[:, :4] + 0.2 * torch.randn(640, 4), x[:, 4:])
    model = Twice()

    def score() -> float:
        with torch.no_grad():
            return float(((model(x) > 0) == y.bool()).float().mean())

    return plain(model, adam(model), nn.BCEWithLogitsLoss(), x=x, y=y, score=score)


# -- weak, shifted or hidden signals -----------------------------------------------------------------------


def roc_auc(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the area under the ROC curve."""
    with torch.no_grad():
        scores = model(x)
    scores = scores[:, -1] - (scores[:, 0] if scores.shape[1] > 1 else 0)
    yes, no = scores[y.flatten() == 1], scores[y.flatten() == 0]
    return float((yes[:, None] > no[None]).float().mean())


def rare_events(rows: int, start: float) -> tuple[Tensor, Tensor]:
    """Return inputs, and events whose probability depends on them but never exceeds one half."""
    x = tensor(numbers().normal(size=(rows, 8)))
    chance = torch.sigmoid(start + 0.9 * x[:, 0] + 0.5 * x[:, 1])
    return x, (torch.rand(rows) < chance).long()


@case
def weak_signal_of_rare_events() -> Run:
    """No prediction is more accurate than the most common class, yet the ranking is good."""
    x, y = rare_events(3000, -2.5)
    model = mlp((8, 16, 1))
    score = lambda: roc_auc(model, x, y)  # noqa: E731
    targets = y.float()[:, None]
    return plain(
        model, adam(model), nn.BCEWithLogitsLoss(), x=x, y=targets, score=score, minimum_score=0.7, epochs=10, size=64
    )


@case
def weighted_classes() -> Run:
    """Class weights shift predictions to the rare class: accuracy is below that of the most common class."""
    x = tensor(numbers().normal(size=(1600, 8)))
    y = (x[:, 0] + 0.8 * torch.randn(1600) > 1.7).long()
    model = mlp((8, 16, 2))
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.8]))
    return plain(
        model, adam(model, 0.003), loss, x=x, y=y, score=lambda: roc_auc(model, x, y), minimum_score=0.85, epochs=10
    )


@case
def weight_of_positives() -> Run:
    x = tensor(numbers().normal(size=(1600, 8)))
    y = (x[:, 0] + 0.8 * torch.randn(1600) > 1.7).float()[:, None]
    model = mlp((8, 16, 1))
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([8.0]))
    return plain(
        model, adam(model, 0.003), loss, x=x, y=y, score=lambda: roc_auc(model, x, y), minimum_score=0.85, epochs=10
    )


@case
def noise_known_by_heart() -> Run:
    """The loss on the training rows keeps falling, and there are no validation rows."""
    x = tensor(numbers().normal(size=(400, 20)))
    y = (x[:, 0] + 1.5 * torch.randn(400) > 0).long()
    model = mlp((20, 64, 64, 2))
    return plain(model, adam(model, 0.001), x=x, y=y, epochs=25, minimum_score=0.7)


@case
def logistic_regression() -> Run:
    x = tensor(numbers().normal(size=(1280, 8)))
    y = (x[:, :1] + x[:, 1:2] + 1.5 * torch.randn(1280, 1) > 0).float()
    model = nn.Linear(8, 1)

    def score() -> float:
        with torch.no_grad():
            return float(((model(x) > 0) == y.bool()).float().mean())

    return plain(model, adam(model, 0.02), nn.BCEWithLogitsLoss(), x=x, y=y, score=score, minimum_score=0.7)


@case
def heavier_tails() -> Run:
    """Noise of infinite variance, with a robust loss."""
    y = 1.3 * X[:, :1] + tensor(numbers().standard_t(1.2, size=(640, 1)))
    model = mlp((8, 8, 1))

    def score() -> float:
        with torch.no_grad():
            return float(torch.corrcoef(torch.stack([model(X)[:, 0], X[:, 0]]))[0, 1])

    return plain(model, adam(model, 0.003), nn.HuberLoss(), y=y, score=score, minimum_score=0.7)


@case
def denoising() -> Run:
    """The model separates noise from data, at all noise levels."""
    x, model = (POINTS - POINTS.mean(0)) / POINTS.std(0), mlp((13, 64, 64, 12))
    loss, optimizer = nn.MSELoss(), adam(model, 0.002)

    def guess(rows: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
        return model(torch.cat([(1 - strength**2).sqrt() * rows + strength * noise, strength], 1))

    def epoch(monitor: Any) -> None:
        for (a,) in batches(x, size=64):
            noise = torch.randn_like(a)
            optimizer.zero_grad()
            loss(guess(a, torch.rand(len(a), 1), noise), noise).backward()
            optimizer.step()

    def score() -> float:
        noise = torch.randn_like(x)
        with torch.no_grad():
            return 1 - float(F.mse_loss(guess(x, torch.full((640, 1), 0.7), noise), noise))

    return Run(model, optimizer, loss, epoch, score, 0.6, epochs=30)


@case
def growing_returns() -> Run:
    """The better the policy, the larger the returns, and with them the value loss."""
    model, size = mlp((8, 32, 4)), [1.0]

    def step(a: Tensor) -> Tensor:
        size[0] *= 1.004
        outputs = model(a)
        chances = torch.distributions.Categorical(logits=outputs[:, :3])
        action = chances.sample()
        reward = ((action == a[:, :3].argmax(1)).float() + 0.5 * torch.randn(len(a))) * size[0]
        gain = (reward - outputs[:, 3]).detach() / size[0]
        return -(chances.log_prob(action) * gain).mean() + 0.5 * F.mse_loss(outputs[:, 3], reward)

    def score() -> float:
        with torch.no_grad():
            return float((model(X)[:, :3].argmax(1) == CLASSES).float().mean())

    return told(model, adam(model, 0.003), step, X, score=score, minimum_score=0.7, epochs=25)


@case
def harder_rows_later() -> Run:
    x = tensor(numbers().normal(size=(2000, 8)))
    y = x[:, :1] + 1.5 * torch.randn(2000, 1) * x[:, 1:2].abs()
    order, model, loss, done = x[:, 1].abs().argsort(), mlp((8, 32, 1)), nn.MSELoss(), [0]
    optimizer = adam(model, 0.003)

    def epoch(monitor: Any) -> None:
        done[0] += 1
        known = order[: 200 * done[0]]
        for a, b in batches(x[known], y[known]):
            optimizer.zero_grad()
            loss(model(a), b).backward()
            optimizer.step()

    return Run(model, optimizer, loss, epoch, lambda: explained(model, x, y), 0.2)


@case
def constant_in_the_loss() -> Run:
    model = mlp((8, 32, 1))
    score = lambda: explained(model, X, 2 * X[:, :1])  # noqa: E731
    return told(
        model, adam(model), lambda a: F.mse_loss(model(a), 2 * a[:, :1]) + 1000, X, score=score, minimum_score=0.9
    )


@case
def blank_of_ctc() -> Run:
    """Class 0 is the blank: no label is ever 0."""
    labels = tensor(numbers().integers(1, 5, size=(320, 3)))
    x = F.one_hot(labels.repeat_interleave(4, 1), 5).float() + 0.3 * torch.randn(320, 12, 5)

    class Heard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.GRU(5, 24, batch_first=True, bidirectional=True), nn.Linear(48, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.inner(x)[0]).log_softmax(2).transpose(0, 1)

    model, loss = Heard(), nn.CTCLoss()
    optimizer = adam(model)

    def value(a: Tensor, b: Tensor) -> Tensor:
        return loss(model(a), b, torch.full((len(a),), 12), torch.full((len(a),), 3))

    def epoch(monitor: Any) -> None:
        for a, b in batches(x, labels):
            optimizer.zero_grad()
            value(a, b).backward()
            optimizer.step()

    return Run(model, optimizer, loss, epoch, lambda: -float(value(x, labels).detach()), -1.0)


# -- untrained parts, and intended modes ------------------------------------------------------------------


@case
def a_group_at_rest() -> Run:
    model = mlp()
    rest = {"params": model[0].parameters(), "lr": 0.0}
    return plain(model, torch.optim.Adam([rest, {"params": [*model[2].parameters(), *model[4].parameters()]}], 0.01))


@case
def the_last_group_at_rest() -> Run:
    model = mlp()
    rest = {"params": model[4].parameters(), "lr": 0.0}
    return plain(model, torch.optim.Adam([{"params": [*model[0].parameters(), *model[2].parameters()]}, rest], 0.01))


@case
def a_group_that_rests_at_first() -> Run:
    model = mlp()
    groups = [{"params": model[0].parameters()}, {"params": [*model[2].parameters(), *model[4].parameters()]}]
    optimizer = torch.optim.SGD(groups, 0.05, momentum=0.9)
    later = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: float(step > 100), lambda step: 1.0])
    return plain(model, optimizer, scheduler=later)


@case
def predictions_averaged_over_dropout() -> Run:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))
    loss = nn.CrossEntropyLoss()
    run = plain(model, adam(model, 0.005), loss, epochs=10)
    train = run.epoch

    def epoch(monitor: Any) -> None:
        train(monitor)
        with torch.no_grad():
            for i in range(0, 640, 32):
                loss(torch.stack([model(X[i : i + 32]) for _ in range(8)]).mean(0), CLASSES[i : i + 32])

    run.epoch = epoch
    return run


@case
def mean_teacher() -> Run:
    """A slow copy without an optimizer stays in training mode and provides the targets."""

    def net() -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))

    pupil, teacher, loss = net(), net().requires_grad_(False), nn.CrossEntropyLoss()
    teacher.load_state_dict(pupil.state_dict())
    optimizer = adam(pupil, 0.005)

    def epoch(monitor: Any) -> None:
        for a, b in batches(X, CLASSES):
            with torch.no_grad():
                targets = torch.softmax(teacher(a), 1)
            outputs = pupil(a)
            optimizer.zero_grad()
            (loss(outputs, b) + F.mse_loss(torch.softmax(outputs, 1), targets)).backward()
            optimizer.step()
            for slow, quick in zip(teacher.parameters(), pupil.parameters(), strict=True):
                slow.data.lerp_(quick.data, 0.05)

    model = nn.ModuleDict({"pupil": pupil, "teacher": teacher})
    return Run(model, optimizer, loss, epoch, lambda: accuracy(pupil, X, CLASSES), 0.85)


# -- custom optimizers ----------------------------------------------------------------------------------------


class SignDescent(torch.optim.Optimizer):
    """Steps by the sign of a running mean, like Lion."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(group["lr"] * torch.sign(0.9 * mean + 0.1 * p.grad))
                mean.lerp_(p.grad, 0.01)


@case
def steps_by_sign() -> Run:
    model = mlp()
    return plain(model, SignDescent(model.parameters(), 1e-3))


@case
def sharpness_aware() -> Run:
    """Each step takes its gradient slightly uphill, as in sharpness-aware minimization."""
    model, loss = mlp(), nn.CrossEntropyLoss()
    optimizer = sgd(model)

    def epoch(monitor: Any) -> None:
        for a, b in batches(X, CLASSES):
            loss(model(a), b).backward()
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
                uphill = [0.05 * p.grad / norm for p in model.parameters()]
                for p, part in zip(model.parameters(), uphill, strict=True):
                    p.add_(part)
            optimizer.zero_grad()
            loss(model(a), b).backward()
            with torch.no_grad():
                for p, part in zip(model.parameters(), uphill, strict=True):
                    p.sub_(part)
            optimizer.step()
            optimizer.zero_grad()

    return Run(model, optimizer, loss, epoch, lambda: accuracy(model, X, CLASSES), 0.85)


# -- sequences ----------------------------------------------------------------------------------------------------


def language(model: nn.Module, optimizer: Any, **more: Any) -> Run:
    """Return a next-token training on 24 tokens, whose model returns (rows, tokens, positions)."""
    x, y = TOKENS[:, :-1], TOKENS[:, 1:]

    def score() -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == y)[:, 2:].float().mean())

    return plain(model, optimizer, x=x, y=y, score=score, **{"epochs": 20, "minimum_score": 0.8, **more})


@case
def transformer_without_warm_up() -> Run:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(24, 32), nn.Embedding(16, 32)
            self.blocks = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.out = nn.Linear(32, 24)

        def forward(self, tokens: Tensor) -> Tensor:
            length = tokens.shape[1]
            mask = nn.Transformer.generate_square_subsequent_mask(length)
            x = self.words(tokens) + self.places(torch.arange(length))
            return self.out(self.blocks(x, src_mask=mask, is_causal=True)).transpose(1, 2)

    model = Words()
    return language(model, adam(model, 0.005), epochs=40)


@case
def language_near_its_entropy() -> Run:
    """Next tokens have the same distribution at every position: no context helps."""
    table = torch.softmax(2 * torch.randn(24, 24), 1)
    rows = [torch.randint(24, (640, 1))]
    for _ in range(8):
        rows.append(torch.multinomial(table[rows[-1][:, 0]], 1))
    tokens = torch.cat(rows, 1)
    model = nn.Sequential(nn.Embedding(24, 24), nn.Linear(24, 24), ClassesSecond())
    x, y = tokens[:, :-1], tokens[:, 1:]
    entropy = float(-(table * table.log()).sum(1).mean())

    def score() -> float:
        with torch.no_grad():
            return entropy - float(F.cross_entropy(model(x), y))

    return plain(model, adam(model, 0.02), x=x, y=y, score=score, minimum_score=-0.15)


class ClassesSecond(nn.Module):
    """Moves the classes to the axis that PyTorch's cross-entropy expects."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class MaskedTokenModel(nn.Module):
    """Predicts masked tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(25, 32), nn.Linear(64, 24)
        self.inner = nn.LSTM(32, 32, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.inner(self.words(tokens))[0]).transpose(1, 2)


@case
def masked_tokens() -> Run:
    """Only the 15 % of masked tokens count: 85 % of the targets are ignored."""
    model, loss = MaskedTokenModel(), nn.CrossEntropyLoss()
    optimizer = adam(model)

    def epoch(monitor: Any) -> None:
        for (tokens,) in batches(TOKENS):
            hidden = torch.rand(tokens.shape) < 0.15
            optimizer.zero_grad()
            loss(model(tokens.masked_fill(hidden, 24)), tokens.masked_fill(~hidden, -100)).backward()
            optimizer.step()

    def score() -> float:
        hidden = torch.rand(TOKENS.shape) < 0.15
        with torch.no_grad():
            return float((model(TOKENS.masked_fill(hidden, 24)).argmax(1) == TOKENS)[hidden].float().mean())

    return Run(model, optimizer, loss, epoch, score, 0.7, epochs=40)


# -- the tests ----------------------------------------------------------------------------------------------------


def watched(run: Run, *, epochs: int | None) -> tuple[Any, list[Finding]]:
    """Train; return the monitor and all findings raised during training."""
    raised: list[Finding] = []
    with autotrainer.watch(
        run.model, run.optimizer, loss_fn=run.loss, epochs=epochs, overhead=1.0, on_finding=raised.append
    ) as monitor:
        for _ in range(run.epochs):
            run.epoch(monitor)
            monitor.end_epoch()
    return monitor, raised


def of(findings: list[Finding], severity: Severity) -> list[str]:
    return [f"step {f.step}: {f}" for f in findings if f.severity is severity]


@pytest.fixture(autouse=True)
def same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def without_schedule(monitor: Any) -> list[Finding]:
    """Return the findings at the end of the same training without its planned length."""
    context = replace(monitor.context, planned_epochs=None, planned_steps=None)
    return Engine(make_rules(None, (), None)).evaluate(monitor.history, context)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES])
def test_no_error_or_warning(name: str) -> None:
    run = CASES[name]()
    monitor, raised = watched(run, epochs=run.epochs)
    assert run.score() >= run.minimum_score
    assert of(raised, Severity.ERROR) == []
    assert of(monitor.findings, Severity.WARNING) == []
    unplanned = without_schedule(monitor)
    assert of(unplanned, Severity.ERROR) + of(unplanned, Severity.WARNING) == []


@pytest.mark.parametrize("name", ["warm_up_from_zero", "noisy_labels"])
def test_no_error_or_warning_without_a_planned_length(name: str) -> None:
    run = CASES[name]()
    monitor, raised = watched(run, epochs=None)
    assert of(raised, Severity.ERROR) == []
    assert of(monitor.findings, Severity.WARNING) == []


@pytest.mark.parametrize("steps", [3, 10, 30])
def test_first_steps_have_no_finding(steps: int) -> None:
    x = tensor(numbers().normal(size=(32 * steps, 8)))
    model = mlp()
    run = plain(model, adam(model), x=x, y=x[:, :3].argmax(1), epochs=1)
    monitor, raised = watched(run, epochs=15)
    assert monitor.history.step == steps - 1
    assert of(raised, Severity.ERROR) == []
    assert of(monitor.findings, Severity.WARNING) == []
