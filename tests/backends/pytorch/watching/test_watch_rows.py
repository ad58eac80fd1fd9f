"""What a watched training knows beyond its own steps: simple models on its rows, and other models beside it."""

from __future__ import annotations

import torch
from torch import nn

import autotrainer


def _linear_rows() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
    return x, x[:, :1] - x[:, 1:2]


def test_a_linear_model_on_sampled_rows_shows_what_was_reachable() -> None:
    x, y = _linear_rows()
    torch.manual_seed(0)
    model, loss_fn = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, steps=60) as monitor:
        for step in range(60):
            rows = slice(32 * step % 512, 32 * step % 512 + 32)
            optimizer.zero_grad()
            loss_fn(model(x[rows]), y[rows]).backward()
            optimizer.step()
    (finding,) = [f for f in monitor.findings if f.problem == "worse_than_simple_model"]
    assert finding.severity == "error"
    assert finding.evidence["simple_score"] > 0.99
    assert finding.evidence["score"] < 0.8


def test_models_that_take_turns_may_be_opposed() -> None:
    x, y = _linear_rows()
    first, second, loss_fn = nn.Linear(4, 1), nn.Linear(4, 1), nn.MSELoss()
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (first, second)]

    def train(*models: nn.Module) -> None:
        for _ in range(4):
            for model, optimizer in zip(models, optimizers, strict=False):
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()

    with (
        autotrainer.watch(first, optimizers[0], loss_fn=loss_fn, steps=4) as one,
        autotrainer.watch(second, optimizers[1]) as other,
    ):
        train(first, second)
    assert one.context.optimizer.several
    assert other.context.optimizer.several
    forgotten = autotrainer.watch(second, optimizers[1])  # of an earlier training, and never closed
    with autotrainer.watch(first, optimizers[0], loss_fn=loss_fn, steps=4) as alone:
        train(first)
    assert not alone.context.optimizer.several
    forgotten.close()


def test_only_rows_of_the_first_epoch_count_as_rows() -> None:
    x, y = _linear_rows()
    model, loss_fn = nn.Linear(4, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=3) as monitor:
        for _ in range(3):
            for rows in torch.arange(64).split(16):
                optimizer.zero_grad()
                loss_fn(model(x[rows] + 0.01 * torch.randn(16, 4)), y[rows]).backward()  # augmented
                optimizer.step()
            monitor.end_epoch()
    assert monitor.context.asked["held_out_rows"] == 64 // 3
