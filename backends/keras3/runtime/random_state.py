"""The random states that managed trainings in Keras touch: seeding them, and putting them back."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED

__all__ = ["preserve_random_state", "save_random_state", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, Keras and its engine; call it inside `preserve_random_state`.

    Args:
        seed: Any whole number; reduced to 32 bits, the range that NumPy takes.
    """
    keras.utils.set_random_seed(seed % 2**32)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Put back every random state as it was: Python, NumPy, Keras' global generator, TensorFlow, PyTorch."""
    put_back = save_random_state()
    try:
        yield
    finally:
        put_back()


def save_random_state() -> Callable[[], None]:
    """Return what puts back every random state as it is now; it can be called once or often."""
    python, numpy = random.getstate(), np.random.get_state()
    seed = global_state.get_global_attribute(GLOBAL_RANDOM_SEED)
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    drawn = None if generator is None else np.array(keras.ops.convert_to_numpy(generator.state.value))
    restore_engines = [save() for save in (_save_tensorflow, _save_torch)]

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        global_state.set_global_attribute(GLOBAL_RANDOM_SEED, seed)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
        if generator is not None:
            generator.state.assign(drawn)
        for restore in restore_engines:
            restore()

    return put_back


def _save_tensorflow() -> Callable[[], None]:
    """Return what restores TensorFlow's global seed and the generator of its operations' seeds."""
    if "tensorflow" not in sys.modules:
        return lambda: None
    from tensorflow.python.eager import context as eager  # no public name reads the global seed

    context = eager.context()
    seed, generator = context._seed, getattr(context, "_rng", None)  # none before a seed is set
    state = None if generator is None else generator.getstate()

    def restore() -> None:
        context._seed = seed
        if generator is not None:
            context._rng = generator
            generator.setstate(state)

    return restore


def _save_torch() -> Callable[[], None]:
    """Return what restores PyTorch's generators."""
    torch = sys.modules.get("torch")
    if torch is None:
        return lambda: None
    state = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        torch.set_rng_state(state)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return restore
