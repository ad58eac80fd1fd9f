"""Programs of several networks or several losses in PyTorch, each with a loop of its own.

The first layer of a program names its kind: ``generator`` (a GAN), ``encoder`` (a variational autoencoder), ``trunk``
(one network with several outputs and losses) or ``policy`` (actor and critic).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cases.case import Program
from benchmarks.cases.scoring import sample_quality
from benchmarks.data.datasets import Arrays
from benchmarks.programs.pytorch_layers import make_layers

__all__ = ["COMPOSITES"]

Make = Callable[[Program, Any], torch.optim.Optimizer]
Watch = Callable[..., Any]

NOISE = 8
"""Numbers that the generator of a GAN starts from."""


def _network(program: Program, index: int, shape: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(*make_layers(program.layers[index]["layers"], shape, program.default_init)[0])


def _batches(program: Program, *arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    order = torch.randperm(len(arrays[0])) if program.loop.get("shuffle", True) else torch.arange(len(arrays[0]))
    for rows in torch.split(order, program.batch_size):
        yield tuple(values[rows] for values in arrays)


def _options(program: Program) -> dict[str, Any]:
    return {} if "reporting" in program.loop else {"epochs": program.epochs}


def _train_gan(program: Program, data: Arrays, make: Make, watch: Watch) -> tuple[float, Any]:
    """Train a generator and a discriminator in turn, each watched with its optimizer; return the generator's."""
    real = torch.from_numpy(data.x_train)
    generator, discriminator = _network(program, 0, (NOISE,)), _network(program, 1, real.shape[1:])
    loss_fn = nn.BCEWithLogitsLoss()
    g_optimizer = make(program, generator.parameters())
    d_optimizer = make(program, discriminator.parameters())
    with (
        watch(discriminator, d_optimizer, **_options(program)),
        watch(generator, g_optimizer, **_options(program)) as monitor,
    ):
        for _ in range(program.epochs):
            for (x,) in _batches(program, real):
                fake = generator(torch.randn(len(x), NOISE))
                if program.loop.get("zero_grad", True):
                    d_optimizer.zero_grad()
                ones, zeros = torch.ones(len(x), 1), torch.zeros(len(x), 1)
                d_loss = loss_fn(discriminator(x), ones) + loss_fn(discriminator(fake.detach()), zeros)
                d_loss.backward()
                d_optimizer.step()
                if program.loop.get("zero_grad", True):
                    g_optimizer.zero_grad()
                g_loss = loss_fn(discriminator(fake), ones)
                g_loss.backward()
                g_optimizer.step()
                monitor.log(loss=g_loss)
            if "reporting" not in program.loop:
                monitor.end_epoch()
    generator.eval()
    with torch.no_grad():
        samples = generator(torch.randn(len(data.x_test), NOISE)).numpy()
    return sample_quality(samples, data.x_test), monitor


class Vae(nn.Module):
    """A variational autoencoder."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction, means and logarithms of the variance of the code."""
        mean, log_variance = self.encoder(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return self.decoder(code), mean, log_variance


def _train_vae(program: Program, data: Arrays, make: Make, watch: Watch) -> tuple[float, Any]:
    """Train with the sum of squared or absolute errors (``loss`` of the decoder) and the divergence of the code."""
    x_train, x_test = torch.from_numpy(data.x_train), torch.from_numpy(data.x_test)
    encoder = _network(program, 0, x_train.shape[1:])
    code = int(program.layers[0]["layers"][-1]["units"]) // 2
    model = Vae(encoder, _network(program, 1, (code,)))
    weight = float(program.layers[1].get("divergence_weight", 1))
    optimizer = make(program, model.parameters())
    with watch(model, optimizer, **_options(program)) as monitor:
        for _ in range(program.epochs):
            model.train(program.loop.get("mode") != "eval")
            for (x,) in _batches(program, x_train):
                if program.loop.get("zero_grad", True):
                    optimizer.zero_grad()
                decoded, mean, log_variance = model(x)
                error = (decoded - x).square().sum(-1).mean() / 0.1  # the variance of the noise that it models
                divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()
                loss = (error + weight * divergence) * (len(x) if program.layers[1].get("summed") else 1)
                loss.backward()
                optimizer.step()
                monitor.log(loss=loss)
            model.eval()
            with torch.no_grad():
                val_loss = float((model(x_test)[0] - x_test).square().mean())
            if "reporting" not in program.loop:
                monitor.end_epoch(val_loss=val_loss)
    outputs = model(x_test)[0].detach().numpy().astype(np.float64)
    if not np.isfinite(outputs).all():
        return -1.0, monitor
    variance = float(((data.x_test - data.x_test.mean(0)) ** 2).sum())
    return float(np.clip(1 - ((outputs - data.x_test) ** 2).sum() / variance, -1, 1)), monitor


class Branches(nn.Module):
    """A trunk with several outputs."""

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, nn.ModuleList(heads)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return one output of each head."""
        features = self.trunk(x)
        return tuple(head(features) for head in self.heads)


def _train_branches(program: Program, data: Arrays, make: Make, watch: Watch) -> tuple[float, Any]:
    """Train with the weighted sum of a cross-entropy on the first target and a squared error on the second.

    The score is the mean of the accuracy and R² (limited to [-1, 1]).
    """
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    x_test, y_test = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    trunk, shape = make_layers(program.layers[0]["layers"], x.shape[1:], program.default_init)
    heads = [nn.Sequential(*make_layers(h["layers"], shape, program.default_init)[0]) for h in program.layers[1:]]
    model = Branches(nn.Sequential(*trunk), heads)
    weights = [float(head.get("weight", 1)) for head in program.layers[1:]]
    classes, values = nn.CrossEntropyLoss(), nn.MSELoss()
    optimizer = make(program, model.parameters())
    functional = "loss_call" in program.loop

    def losses(features: Tensor, targets: Tensor) -> Any:
        labels, value = model(features)
        first = (classes.forward if functional else classes)(labels, targets[:, 0].long())
        second = (values.forward if functional else values)(value, targets[:, 1:])
        return weights[0] * first + weights[1] * second

    with watch(model, optimizer, **_options(program)) as monitor:
        for _ in range(program.epochs):
            model.train(program.loop.get("mode") != "eval")
            for features, targets in _batches(program, x, y):
                if program.loop.get("zero_grad", True):
                    optimizer.zero_grad()
                loss = losses(features, targets)
                loss.backward()
                optimizer.step()
                monitor.log(loss=loss)
            model.eval()
            with torch.no_grad():
                val_loss = float(losses(x_test, y_test))
            if "reporting" not in program.loop:
                monitor.end_epoch(val_loss=val_loss)
    with torch.no_grad():
        labels, value = (out.numpy().astype(np.float64) for out in model(x_test))
    if not (np.isfinite(labels).all() and np.isfinite(value).all()):
        return -0.5, monitor
    accuracy = float((labels.argmax(-1) == data.y_test[:, 0]).mean())
    variance = float(((data.y_test[:, 1] - data.y_test[:, 1].mean()) ** 2).mean())
    r2 = float(np.clip(1 - ((value[:, 0] - data.y_test[:, 1]) ** 2).mean() / variance, -1, 1))
    return (accuracy + r2) / 2, monitor


class ActorCritic(nn.Module):
    """Action scores and the expected reward of a state."""

    def __init__(self, policy: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores of shape (rows, actions) and values of shape (rows,)."""
        return self.policy(x), self.critic(x)[:, 0]


def _train_actor_critic(program: Program, data: Arrays, make: Make, watch: Watch) -> tuple[float, Any]:
    """Train by policy gradients: the reward is 1 for the action that is the row's class, else 0.

    The score is the share of test rows on which the likeliest action is right.
    """
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    model = ActorCritic(*(_network(program, i, x.shape[1:]) for i in (0, 1)))
    optimizer = make(program, model.parameters())
    with watch(model, optimizer, **_options(program)) as monitor:
        for _ in range(program.epochs):
            for states, classes in _batches(program, x, y):
                scores, values = model(states)
                choice: Any = torch.distributions.Categorical(logits=scores)
                actions = choice.sample()
                rewards = (actions == classes).float()
                advantage = rewards - values.detach()
                loss = (-choice.log_prob(actions) * advantage).mean() + (rewards - values).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.log(loss=loss)
            if "reporting" not in program.loop:
                monitor.end_epoch()
    with torch.no_grad():
        actions = model(torch.from_numpy(data.x_test))[0].argmax(-1).numpy()
    return float((actions == data.y_test).mean()), monitor


COMPOSITES: Mapping[str, Callable[[Program, Arrays, Make, Watch], tuple[float, Any]]] = {
    "encoder": _train_vae,
    "generator": _train_gan,
    "policy": _train_actor_critic,
    "trunk": _train_branches,
}
"""Functions that train these programs, by the type of their first layer; each returns test score and monitor."""
