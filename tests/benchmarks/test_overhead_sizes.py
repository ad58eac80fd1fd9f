"""The sizes of the overhead benchmark: models are as large as their names say, and two ranks train one model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotrainer.errors import ConfigError
from benchmarks.overhead.run import run
from benchmarks.overhead.size_models import RANKS, SIZES, batch, pytorch_network
from benchmarks.overhead.sizes import sizes


@pytest.mark.parametrize("name", [name for name in SIZES if name not in RANKS and name != "10,000 layers"])
def test_models_have_the_size_of_their_name(name: str) -> None:
    number, quantity = name.replace(",", "").replace(" M", "000000").split()
    with torch.device("meta"):
        network = pytorch_network(name)
    inputs, classes = batch(name)
    size = {
        "layers": sum(isinstance(part, nn.Linear | nn.ReLU) for part in network.modules()) - 1,  # but the output layer
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "rows": len(inputs),
        "tokens": inputs.shape[1],
    }
    assert size[quantity] == pytest.approx(int(number), rel=0.02)
    assert network(torch.empty(inputs.shape, device="meta")).shape == (len(classes), 10)


def test_unknown_size_is_an_error() -> None:
    with pytest.raises(ConfigError, match="unknown size '5 layers': choose from 10 layers; 100 layers"):
        sizes(["pytorch"], names=["5 layers"])
    with pytest.raises(ConfigError, match=r"unknown setting 'deep': choose from .*default"):
        sizes(["pytorch"], names=["10 layers"], settings=["deep"])


@pytest.mark.slow
def test_settings_are_compared_at_a_size() -> None:
    text = sizes(["pytorch"], quick=True, names=["10 layers"], settings=["plain", "norm_loop"])
    assert "| pytorch | 10 layers | plain |" in text
    assert "| pytorch | 10 layers | norm_loop |" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", RANKS)
def test_two_ranks_take_the_same_steps(name: str) -> None:
    task = {"framework": "pytorch", "model": name, "setting": "default", "start_steps": 3, "pairs": 2, "seconds": 0.01}
    row = run(task)
    assert row["steps"] >= 3
    assert len(row["plain_wall"]) == len(row["watched_median"]) == 2
