"""A statistic that can't be measured is left out alone, and named in the report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.backends.pytorch.statistics import embeddings, forward_record, forward_tracer, gradients, weights
from autotrainer.backends.pytorch.watching import mode_tracker, step_measurement, zero_grad_check
from autotrainer.backends.pytorch.watching.losses import loss_call
from autotrainer.monitoring import summary
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.signals import LAYER_COLUMNS


class Classifier(nn.Module):
    """A small network with an embedding, attention and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        x = self.norm(self.tokens(tokens))
        x = torch.relu(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(self.drop(x.mean(1)))


def train(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, steps: int = 6, **options: Any) -> Monitor:
    torch.manual_seed(0)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-3)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1, log_dir=None, **options) as monitor:
        for _ in range(steps):
            tokens = torch.randint(0, 20, (8, 6))
            optimizer.zero_grad()
            loss_fn(model(tokens), tokens[:, 0] % 3).backward()
            optimizer.step()
    return monitor


def measured(monitor: Monitor, column: str) -> bool:
    history = monitor.history
    values = history.layer(column) if column in LAYER_COLUMNS else history.scalar(column)
    return len(values) == 6 and not np.isnan(values).all()


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("unforeseen")


SIGNALS = {
    "activations": "activation_std",
    "attention": "attention_entropy",
    "embeddings": "lookups_without_gradient",
    "gradient direction": "gradient_cosine",
    "gradient reset": "stale_gradients",
    "gradients": "grad_norm",
    "inputs": "batch_size",
    "modes": "training_mode",
    "normalization": "normalized_rms",
    "optimizer state": "optimizer_steps",
    "outputs": "output_spread",
    "targets": "class_entropy",
    "weight updates": "update_ratio",
    "weights": "weight_norm",
}
PATCHES: tuple[tuple[str, Any, str], ...] = (
    ("activations", forward_record, "activation_numbers"),
    ("attention", forward_tracer, "module_attention"),
    ("embeddings", embeddings, "_without_gradient"),
    ("gradient direction", gradients.GradientSample, "direction"),
    ("gradient reset", zero_grad_check, "get_gradient_edge"),
    ("gradients", weights, "nonzero_counts"),
    ("modes", mode_tracker, "mode"),
    ("normalization", forward_record, "normalization_numbers"),
    ("optimizer state", step_measurement, "steps_in_memory"),
    ("outputs", summary, "_output_values"),
    ("targets", loss_call, "masked"),
    ("weight updates", weights, "changes"),
)


@pytest.mark.parametrize(("statistic", "module", "name"), PATCHES, ids=[patch[0] for patch in PATCHES])
def test_one_failing_statistic_leaves_the_others(
    statistic: str,
    module: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, name, fails)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor = train(Classifier())
    assert [signal for signal, column in SIGNALS.items() if not measured(monitor, column)] == [statistic]
    assert not np.isnan(monitor.history.losses[1]).any()
    complaints = [record.getMessage() for record in caplog.records if "could not be measured" in record.getMessage()]
    assert [statistic in complaint for complaint in complaints] == [True]
    assert monitor.report().run["unmeasured"] == [f"{statistic} (failed)"]
    assert f"not measured: {statistic} (failed)" in str(monitor.report()).replace("\n", " ")


def test_healthy_statistics_are_not_named() -> None:
    monitor = train(Classifier())
    assert all(measured(monitor, column) for column in SIGNALS.values())
    assert monitor.report().run["unmeasured"] == []


def test_a_layer_whose_gradient_cannot_be_read_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., list[Tensor]] = weights.norms

    def norms(tensors: Any) -> list[Tensor]:
        if any(tensor.shape == (3, 8) for tensor in tensors):
            raise RuntimeError("unforeseen")
        return original(tensors)

    monkeypatch.setattr(weights, "norms", norms)
    monitor = train(Classifier())
    names = [layer.name for layer in monitor.history.layers]
    for column in ("weight_norm", "grad_norm", "update_ratio"):
        values = monitor.history.layer(column)
        assert np.isnan(values[:, names.index("head")]).all(), column
        assert not np.isnan(values[:, names.index("attention")]).any(), column
    assert "weights (failed)" in monitor.report().run["unmeasured"]
