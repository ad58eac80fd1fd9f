"""Outputs of normalizations against their scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.statistics.normalization import normalization_numbers

X = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
"""Channels first: 6 samples of 8 channels and 5 positions."""
ROWS = X.transpose(1, 2)


class ScaledRMSNorm(nn.Module):
    """Multiplies by 1 + weight, as in Gemma."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x / x.pow(2).mean(-1, keepdim=True).sqrt() * (1 + self.weight)


class ImageLayerNorm(nn.LayerNorm):
    """Normalizes the channels of images, as in ConvNeXt."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class TimeLayerNorm(nn.LayerNorm):
    """Normalizes over time by mistake."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) * self.weight + self.bias


def numbers(module: nn.Module, x: Tensor) -> list[float]:
    measured = normalization_numbers(module, module(x))
    assert measured is not None
    return measured.tolist()


def redrawn(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.uniform_(0.5, 3.0, generator=torch.Generator().manual_seed(i))
    return module


@pytest.mark.parametrize(
    ("module", "x"),
    [
        pytest.param(nn.LayerNorm(8), ROWS, id="layer"),
        pytest.param(nn.LayerNorm((5, 8)), ROWS, id="layer over two axes"),
        pytest.param(nn.RMSNorm(8), ROWS, id="rms"),
        pytest.param(nn.GroupNorm(2, 8), X, id="group"),
        pytest.param(nn.BatchNorm1d(8), X, id="batch"),
        pytest.param(nn.InstanceNorm1d(8, affine=True), X, id="instance"),
        pytest.param(ImageLayerNorm(8), X, id="channels of images"),
        pytest.param(ScaledRMSNorm(), ROWS, id="one plus weight"),
    ],
)
def test_values_before_scale_and_bias_have_a_size_of_1(module: nn.Module, x: Tensor) -> None:
    rms, peak, _, _ = numbers(module if isinstance(module, ScaledRMSNorm) else redrawn(module), x)
    assert rms == pytest.approx(1, abs=2e-3)
    assert peak == pytest.approx(1, abs=2e-3)


def test_scale_and_bias() -> None:
    module = redrawn(nn.LayerNorm(8))
    weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
    assert numbers(module, ROWS)[2:] == pytest.approx([np.sqrt((v**2).mean()) for v in (weight, bias)])
    assert numbers(ScaledRMSNorm(), ROWS)[2] == pytest.approx(1.5)


def test_wrong_axis_and_large_epsilon_show() -> None:
    assert numbers(TimeLayerNorm(8), ROWS)[1] > 1.05
    assert numbers(nn.LayerNorm(8, eps=100.0), ROWS)[0] < 0.4


def test_rows_of_padding_do_not_count() -> None:
    x = ROWS.clone()
    x[:3] = 0
    assert numbers(nn.LayerNorm(8), x)[0] == pytest.approx(1, abs=1e-3)


def test_running_statistics_have_no_largest_value() -> None:
    module = nn.BatchNorm1d(8).eval()
    rms, peak, *_ = numbers(module, X)
    assert rms > 2
    assert math.isnan(peak)


def test_low_precision_is_not_measured_where_a_bias_hides_the_values() -> None:
    module = nn.LayerNorm(8).to(torch.bfloat16)
    with torch.no_grad():
        module.bias.fill_(30.0)
    assert math.isnan(numbers(module, ROWS.to(torch.bfloat16))[0])


def test_without_scale_and_bias_there_is_nothing_to_measure() -> None:
    assert normalization_numbers(nn.LayerNorm(8, elementwise_affine=False), ROWS) is None
