"""Sizes of matrices, and of parts of attention layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.ranks.shards import Shards
from autotrainer.backends.pytorch.statistics.frozen_weights import FrozenWeights, attention_parts
from autotrainer.backends.pytorch.statistics.host_transfer import transfer
from autotrainer.backends.pytorch.statistics.row_sums import RowSums
from autotrainer.backends.pytorch.statistics.weights import OptimizerStepStats, owners
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import LAYER_COLUMNS, PARTS, Floats

NAMES = ("h.0.attn.c_attn", "fc", "attention")


def size(values: Tensor) -> float:
    return float(values.detach().square().mean().sqrt())


def row(table: Floats, index: int) -> dict[str, float]:
    return dict(zip(LAYER_COLUMNS, table[index].tolist(), strict=True))


def test_joint_projections_are_taken_apart() -> None:
    torch.manual_seed(0)
    modules = [nn.Linear(8, 24), nn.Linear(8, 24), nn.MultiheadAttention(8, 2)]
    parts = attention_parts(NAMES, modules)
    rows = owners(modules)
    optimizer = torch.optim.SGD(rows, 0.1)
    for parameter in rows:
        parameter.grad = torch.randn_like(parameter)
    guard = StatisticGuard(lambda statistic, error: pytest.fail(f"{statistic}: {error}"))
    stats = OptimizerStepStats(list(rows.items()), frozenset(), parts, guard, Shards(nn.ModuleList(modules)))
    stats.read_gradients(optimizer)
    table = np.full((3, len(LAYER_COLUMNS)), np.nan)
    sums = RowSums(3)
    transfer(stats.results(sums, None), guard)
    sums.write(table)
    for index, weight in ((0, modules[0].weight), (2, modules[2].in_proj_weight)):
        assert weight.grad is not None
        for part, values, gradient in zip(PARTS, weight.chunk(3), weight.grad.chunk(3), strict=False):
            assert row(table, index)[f"{part}_rms"] == pytest.approx(size(values), rel=1e-5)
            assert row(table, index)[f"{part}_grad_rms"] == pytest.approx(size(gradient), rel=1e-5)
    assert np.isnan(row(table, 1)["key_rms"])
    assert row(table, 1)["weight_rms"] == pytest.approx(size(modules[1].weight), rel=1e-5)
    assert row(table, 1)["weight_grad_rms"] == pytest.approx(size(modules[1].weight.grad), rel=1e-5)
    assert row(table, 1)["bias_rms"] == pytest.approx(size(modules[1].bias), rel=1e-5)


def test_frozen_matrices_are_measured_where_nothing_else_is() -> None:
    modules = [nn.Linear(8, 24).requires_grad_(False), nn.Linear(8, 24)]
    parts = attention_parts(NAMES[:2], modules)
    table = np.full((2, len(LAYER_COLUMNS)), np.nan)
    FrozenWeights(modules, parts).fill(table)
    assert row(table, 0)["weight_rms"] == pytest.approx(size(modules[0].weight), rel=1e-5)
    assert row(table, 0)["key_rms"] == pytest.approx(size(modules[0].weight[8:16]), rel=1e-5)
    assert np.isnan(table[1]).all()
