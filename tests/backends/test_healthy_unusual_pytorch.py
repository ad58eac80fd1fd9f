"""Healthy trainings that look unusual, in PyTorch: none may get an error at any time, nor a warning at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.findings import Finding, Severity

RANDOM = np.random.default_rng(0)


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
    """One training: its objects, what an epoch of it does, and how well it has done in the end."""

    model: nn.Module
    optimizer: Any
    loss: Callable[..., Tensor] | None
    epoch: Callable[[Any], None]
    score: Callable[[], float]
    enough: float
    """Score from which the training is verified to be healthy."""
    epochs: int = 15
    expected: dict[str, str] = field(default_factory=dict)
    """Warnings that are in place at the end, and why."""


Case = Callable[[], Run]
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def mlp(sizes: tuple[int, ...] = (8, 32, 32, 3), kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
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
    enough: float = 0.85,
    size: int = 32,
    scheduler: Any = None,
    clip: float | None = None,
    accumulate: int = 1,
    after: Callable[[], object] = bool,
    **more: Any,
) -> Run:
    """Return a training by the usual loop: classes, or values where the loss is another one."""
    classes = loss is None
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

    measure = accuracy if classes else explained
    return Run(model, optimizer, loss, epoch, lambda: measure(model, x, y), enough, **more)


def told(
    model: nn.Module, optimizer: Any, step: Callable[[Tensor], Tensor], x: Tensor, *, size: int = 32, **more: Any
) -> Run:
    """Return a training whose loss is a function of the batch, told by `Monitor.log`."""

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
    x = tensor(RANDOM.random((640, 100)) < 0.05)
    y = (x[:, :50].sum(1) > x[:, 50:].sum(1)).long()
    model = mlp((100, 32, 2))
    return plain(model, adam(model, 0.003), x=x, y=y, epochs=30)


@case
def tiny_data() -> Run:
    model = mlp((8, 16, 1), nn.Tanh)
    return plain(model, adam(model, 0.01), nn.MSELoss(), x=X[:30], y=VALUES[:30], size=10, epochs=80)


@case
def heavy_tailed_noise() -> Run:
    noise = tensor(RANDOM.standard_t(3, size=(640, 1)))
    y = X[:, :1] + noise
    model = mlp((8, 8, 1))
    return plain(model, adam(model, 0.003), nn.MSELoss(), x=X, y=y, enough=0.15)


@case
def noisy_labels() -> Run:
    x = tensor(RANDOM.normal(size=(1920, 8)))
    y = torch.where(torch.rand(1920) < 0.7, (x[:, 0] + x[:, 1] > 0).long(), (x[:, 0] + x[:, 1] <= 0).long())
    model = mlp((8, 16, 2))
    return plain(model, adam(model, 0.003), x=x, y=y, epochs=8, enough=0.65)


@case
def imbalance_that_is_learned() -> Run:
    x = tensor(RANDOM.normal(size=(1280, 8)))
    y = (x[:, 0] > 1.7).long()
    model = mlp((8, 16, 2))
    return plain(model, adam(model), x=x, y=y, enough=0.98)


@case
def untouched_rows_of_an_embedding() -> Run:
    words = tensor(RANDOM.integers(0, 50, size=(640, 6)))
    y = ((words < 25).sum(1) > 3).long()
    model = nn.Sequential(nn.Embedding(5000, 8), nn.Flatten(), nn.Linear(48, 2))
    return plain(model, adam(model, 0.02), x=words, y=y)


@case
def sorted_evaluation_data() -> Run:
    model = mlp()
    order = CLASSES.argsort()
    loss = nn.CrossEntropyLoss()
    run = plain(model, adam(model), loss_held := None) if False else plain(model, adam(model), epochs=10)
    train, loss = run.epoch, run.loss

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
    return plain(
        model, optimizer, scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=301)
    )


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
    """Return a network that has learned another task."""
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
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.inner, self.out = nn.Embedding(24, 32), nn.GRU(32, 32, batch_first=True), nn.Linear(32, 24)
            self.out.weight = self.words.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.inner(self.words(tokens))[0]).transpose(1, 2)

    model = Tied()
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

    return told(
        model, optimizer, step, X, score=lambda: accuracy(model, X, CLASSES), enough=0.8, epochs=25
    )


@case
def contrastive_loss() -> Run:
    model = mlp((12, 32, 8))

    def step(a: Tensor) -> Tensor:
        one, two = (F.normalize(model(a + 0.1 * torch.randn_like(a)), dim=1) for _ in range(2))
        return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(a)))

    def score() -> float:
        with torch.no_grad():
            return -float(step(POINTS[:64]))

    return told(model, adam(model, 0.003), step, POINTS, size=64, score=score, enough=-3.0, epochs=30)


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


class Encoded(nn.Module):
    """A variational autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((12, 32, 8)), mlp((4, 32, 12))

    def forward(self, x: Tensor) -> Any:
        mean, spread = self.encode(x).chunk(2, 1)
        return self.decode(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread


@case
def variational_autoencoder() -> Run:
    model = Encoded()

    def step(a: Tensor) -> Tensor:
        made, mean, spread = model(a)
        apart = 0.5 * (spread.exp() + mean**2 - 1 - spread).sum(1).mean()
        return 20 * F.mse_loss(made, a, reduction="none").sum(1).mean() + apart

    def score() -> float:
        with torch.no_grad():
            return 1 - float(F.mse_loss(model(POINTS)[0], POINTS) / POINTS.var())

    return told(model, adam(model, 0.005), step, POINTS, score=score, enough=0.6, epochs=20)


@case
def narrow_autoencoder() -> Run:
    model = mlp((12, 32, 2, 32, 12))
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 2), nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 12))
    return plain(model, adam(model), nn.MSELoss(), x=POINTS, y=POINTS)


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

    run = plain(model, adam(model), nn.BCEWithLogitsLoss(), y=y, enough=0.93)
    run.score = score
    return run


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

    run = plain(model, adam(model), nn.BCEWithLogitsLoss(), x=x, y=y)
    run.score = score
    return run


# -- sequences ----------------------------------------------------------------------------------------------------


def language(model: nn.Module, optimizer: Any, **more: Any) -> Run:
    """Return a training on the next of 24 tokens, whose model gives (rows, tokens, places)."""
    x, y = TOKENS[:, :-1], TOKENS[:, 1:]
    run = plain(model, optimizer, nn.CrossEntropyLoss(), x=x, y=y, **{"epochs": 20, "enough": 0.8, **more})

    def score() -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) == y)[:, 2:].float().mean())

    run.score = score
    return run


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
    """Next tokens are drawn from the same chances at every place: no context helps, half of the accuracy is luck."""
    table = torch.softmax(2 * torch.randn(24, 24), 1)
    rows = [torch.randint(24, (640, 1))]
    for _ in range(8):
        rows.append(torch.multinomial(table[rows[-1][:, 0]], 1))
    tokens = torch.cat(rows, 1)
    model = nn.Sequential(nn.Embedding(24, 24), nn.Linear(24, 24), Turned())
    run = plain(model, adam(model, 0.02), nn.CrossEntropyLoss(), x=tokens[:, :-1], y=tokens[:, 1:])
    entropy = float(-(table * table.log()).sum(1).mean())

    def score() -> float:
        with torch.no_grad():
            return entropy - float(F.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]))

    run.score, run.enough = score, -0.15
    return run


class Turned(nn.Module):
    """Puts the classes where PyTorch's cross-entropy looks for them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


# -- the tests ----------------------------------------------------------------------------------------------------


def watched(run: Run, *, epochs: int | None) -> tuple[Any, list[Finding]]:
    """Train; return the monitor and all findings raised on the way."""
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
        global RANDOM
        RANDOM = np.random.default_rng(1)
        yield


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
@pytest.mark.parametrize("name", list(CASES))
def test_is_left_alone(name: str, planned: bool) -> None:
    run = CASES[name]()
    monitor, raised = watched(run, epochs=run.epochs if planned else None)
    score = run.score()
    assert score >= run.enough
    assert of(raised, Severity.ERROR) == []
    left = [f for f in monitor.findings if f.severity is Severity.WARNING and f.problem not in run.expected]
    assert of(left, Severity.WARNING) == []


@pytest.mark.parametrize("steps", [3, 10, 30])
def test_first_steps_are_left_alone(steps: int) -> None:
    model = mlp()
    run = plain(model, adam(model), x=X[: 32 * steps], y=CLASSES[: 32 * steps], epochs=1)
    monitor, raised = watched(run, epochs=15)
    assert of(raised, Severity.ERROR) == []
    assert of(monitor.findings, Severity.WARNING) == []
