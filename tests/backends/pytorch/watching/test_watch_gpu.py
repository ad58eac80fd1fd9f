"""On a GPU: watching changes nothing, waits seldom, and finds the first loss that is not finite to the step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import autotrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use"),
]


class Training:
    """A small training on a GPU, in single or mixed precision."""

    def __init__(self, *, mixed: bool = False) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).cuda()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.loss_fn = nn.CrossEntropyLoss()
        self.scaler = torch.amp.GradScaler("cuda", enabled=mixed)
        self.mixed = mixed
        self.x, self.y = torch.randn(32, 16).cuda(), torch.randint(0, 4, (32,)).cuda()

    def step(self, scale: float = 1.0) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cuda", enabled=self.mixed):
            loss = self.loss_fn(self.model(self.x * scale), self.y)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def watch(self, **options: Any) -> autotrainer.Monitor:
        return autotrainer.watch(self.model, self.optimizer, loss_fn=self.loss_fn, **options)


@pytest.mark.parametrize("mixed", [False, True])
def test_weights_are_those_without_watching(mixed: bool) -> None:
    alone, watched = Training(mixed=mixed), Training(mixed=mixed)
    for _ in range(200):
        alone.step()
    with watched.watch(select=()) as monitor:
        for _ in range(200):
            watched.step()
    assert all(torch.equal(a, b) for a, b in zip(alone.model.parameters(), watched.model.parameters(), strict=True))
    assert not monitor._failed
    assert len(monitor.history.steps) > 1


def test_between_samples_the_host_never_waits() -> None:
    training = Training()
    with training.watch(select=()) as monitor:
        for _ in range(300):
            training.step()
        monitor.sampler.stop()
        training.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(300):
                training.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("bad", [20, 400, 1000])
def test_the_first_loss_that_is_not_finite_is_known_to_the_step(bad: int) -> None:
    training = Training()
    with training.watch(select=["nonfinite"]) as monitor:
        for step in range(bad + 300):
            training.step(math.nan if step == bad else 1.0)
    assert [finding.evidence["first_step"] for finding in monitor.findings] == [bad]


def test_a_captured_graph_is_replayed_unchanged() -> None:
    training = Training()
    with training.watch(select=()):
        for _ in range(3):
            training.step()
    graph, static = torch.cuda.CUDAGraph(), training.x.clone()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = training.model(static)
    with training.watch(select=()) as monitor:
        for _ in range(20):
            training.step()
            graph.replay()
    assert torch.equal(output, training.model(static).detach())
    assert not monitor._failed
