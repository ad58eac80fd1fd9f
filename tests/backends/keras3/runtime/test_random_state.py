from __future__ import annotations

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from autotrainer.backends.keras3.runtime.random_state import preserve_random_state, seed_everything


def draw() -> list[float]:
    return [
        random.random(),
        float(np.random.rand()),
        float(tf.random.uniform(())),
        float(keras.random.uniform(())),
        float(keras.initializers.GlorotUniform()((2, 2))[0, 0]),
    ]


def test_all_random_states_are_restored() -> None:
    keras.utils.set_random_seed(1)
    draw()
    expected = draw()
    keras.utils.set_random_seed(1)
    draw()
    with preserve_random_state():
        seed_everything(5)
        draw()
    assert draw() == expected


def test_random_states_are_restored_after_an_error() -> None:
    keras.utils.set_random_seed(2)
    expected = draw()
    keras.utils.set_random_seed(2)

    def fail() -> None:
        with preserve_random_state():
            seed_everything(5)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert draw() == expected


def test_equal_seeds_draw_equal_numbers() -> None:
    drawn = []
    for seed in (3, 3, 4):
        with preserve_random_state():
            seed_everything(seed)
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
