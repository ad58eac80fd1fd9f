"""Random generators of the user's data, besides the global ones."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import autotrainer
from autotrainer.backends.pytorch.data.random_generators import RandomGenerators


class _Noisy(TensorDataset):
    """Draws from a generator of its own that is not of torch."""

    def __init__(self, rng: Any, draw: str) -> None:
        super().__init__(torch.zeros(100, 4), torch.arange(100) % 2)
        self.rng, self.draw = rng, draw

    def __getitem__(self, row: Any) -> Any:
        x, y = super().__getitem__(row)
        return x + 0.01 * float(getattr(self.rng, self.draw)()), y


def _random_generators() -> Iterator[tuple[Any, str]]:
    yield np.random.default_rng(0), "random"
    yield np.random.RandomState(0), "random_sample"
    yield random.Random(0), "random"


@pytest.mark.parametrize(("rng", "draw"), list(_random_generators()))
def test_generators_of_data_are_restored(rng: Any, draw: str) -> None:
    loader = DataLoader(_Noisy(rng, draw), batch_size=50)
    found = RandomGenerators.of(loader)
    first = next(iter(loader))[0]
    later = found.now()
    second = next(iter(loader))[0]
    assert not torch.equal(first, second)
    found.restore()
    assert torch.equal(next(iter(loader))[0], first)
    later.restore()
    assert torch.equal(next(iter(loader))[0], second)


@pytest.mark.parametrize(("rng", "draw"), list(_random_generators()))
def test_loop_does_not_advance_the_generators(rng: Any, draw: str) -> None:
    before = copy.deepcopy(rng)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(_Noisy(rng, draw), batch_size=50)
    loop = autotrainer.Loop(model, optimizer, nn.CrossEntropyLoss(), loader, epochs=1)
    for _ in loop:
        assert getattr(rng, draw)() == getattr(before, draw)()
        loop.end_epoch(val_loss=1.0)


def test_where_generators_are_searched() -> None:
    """In loaders, samplers, data sets within data sets and transforms; never among samples."""
    torch_one, numpy_one = torch.Generator(), np.random.default_rng(0)
    inner = _Noisy(numpy_one, "random")
    loader = DataLoader(Subset(inner, range(50)), batch_size=10, shuffle=True, generator=torch_one)
    assert {id(generator) for generator, _ in RandomGenerators.of(loader).states} == {id(torch_one), id(numpy_one)}
    samples = DataLoader([np.random.default_rng(i) for i in range(40)])  # type: ignore[arg-type]
    assert not RandomGenerators.of(samples).states
    assert not RandomGenerators.of([(torch.zeros(2), 1)]).states
