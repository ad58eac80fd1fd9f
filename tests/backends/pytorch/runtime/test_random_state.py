from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from autotrainer.backends.pytorch.runtime.random_state import mix, preserve_random_state, seed_all


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_random_states_are_restored_after_an_error() -> None:
    seed_all(3)
    expected = draw()
    seed_all(3)

    def fail() -> None:
        with preserve_random_state():
            seed_all(7)
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draw() == expected


def test_seeds_of_epochs_differ() -> None:
    seeds = {mix(seed, epoch) for seed in (0, 1, 2**40, -3) for epoch in range(50)}
    assert len(seeds) == 200
    for seed in seeds:
        seed_all(seed)
