"""Patterns of initial weights, recognized from the weights alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotrainer.backends.pytorch.model.weight_patterns import weight_forms


def filled(module: nn.Module, value: float) -> nn.Module:
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


def equal_units(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        module.weight[:] = module.weight[:1].clone()
    return module


def equal_inputs(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        module.weight[:] = module.weight[:, :1].clone()
    return module


@pytest.mark.parametrize(
    ("module", "form"),
    [
        pytest.param(nn.Linear(3, 4), "", id="random"),
        pytest.param(filled(nn.Linear(3, 4), 0.5), "constant", id="constant"),
        pytest.param(filled(nn.Linear(3, 4), 0.0), "zero", id="zero"),
        pytest.param(filled(nn.Linear(3, 1), 0.0), "zero", id="zero, one unit"),
        pytest.param(filled(nn.Linear(3, 1), 0.5), "equal_inputs", id="constant, one unit"),
        pytest.param(equal_units(nn.Linear(3, 4)), "equal_units", id="equal rows"),
        pytest.param(equal_inputs(nn.Linear(3, 4)), "equal_inputs", id="equal columns"),
        pytest.param(nn.Linear(1, 4), "", id="one input"),
        pytest.param(nn.Linear(1, 1), "", id="one input, one unit"),
        pytest.param(filled(nn.Linear(1, 4), 0.0), "zero", id="zero, one input"),
        pytest.param(filled(nn.Linear(1, 4), 0.5), "constant", id="constant, one input"),
        pytest.param(nn.Conv2d(1, 4, 1), "", id="one channel"),
        pytest.param(equal_units(nn.Conv2d(1, 4, 3)), "equal_units", id="equal filters of one channel"),
        pytest.param(nn.Conv2d(2, 4, 3), "", id="convolution"),
        pytest.param(equal_units(nn.Conv2d(2, 4, 3)), "equal_units", id="equal filters"),
        pytest.param(filled(nn.ConvTranspose1d(2, 4, 3), 1.0), "constant", id="transposed convolution"),
        pytest.param(filled(nn.Conv2d(4, 4, 3, groups=4), 1.0), "", id="depthwise: units see different inputs"),
        pytest.param(nn.LSTM(3, 4), "", id="recurrent"),
        pytest.param(filled(nn.LSTM(3, 4), 0.5), "constant", id="recurrent, constant"),
        pytest.param(filled(nn.Embedding(5, 4), 0.0), "", id="embedding"),
        pytest.param(nn.LayerNorm(4), "", id="normalization"),
        pytest.param(nn.LazyLinear(4), "", id="no weights yet"),
        pytest.param(filled(nn.Linear(3, 4, dtype=torch.bfloat16), 0.1), "constant", id="half precision"),
        pytest.param(nn.Linear(3, 4, device="meta"), "", id="no values"),
    ],
)
def test_form(module: nn.Module, form: str) -> None:
    assert weight_forms([nn.ReLU(), module]) == ["", form]
