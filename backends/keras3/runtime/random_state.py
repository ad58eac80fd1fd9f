"""The random states that managed trainings in Keras change: seeding and restoring them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np

from autotrainer.backends.keras3.runtime.keras_internals import (
    GLOBAL_RANDOM_SEED,
    GLOBAL_SEED_GENERATOR,
    get_global_attribute,
    set_global_attribute,
)

__all__ = ["preserve_random_state", "save_random_state", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, Keras and its engine; call it inside `preserve_random_state`.

    Args:
        seed: Any integer; reduced to 32 bits, the range that NumPy takes.
    """
    keras.utils.set_random_seed(seed % 2**32)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore every random state afterwards: Python, NumPy, Keras' global generator, TensorFlow, PyTorch."""
    restore = save_random_state()
    try:
        yield
    finally:
        restore()


def save_random_state() -> Callable[[], None]:
    """Return a function that restores the present random states; it can be called more than once."""
    python, numpy = random.getstate(), np.random.get_state()
    seed = get_global_attribute(GLOBAL_RANDOM_SEED)
    generator = get_global_attribute(GLOBAL_SEED_GENERATOR)
    generator_state = None if generator is None else np.array(keras.ops.convert_to_numpy(generator.state.value))
    restore_engines = [save() for save in (_save_tensorflow, _save_torch)]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        set_global_attribute(GLOBAL_RANDOM_SEED, seed)
        set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
        if generator is not None:
            generator.state.assign(generator_state)
        for restore_engine in restore_engines:
            restore_engine()

    return restore


def _save_tensorflow() -> Callable[[], None]:
    if "tensorflow" not in sys.modules:
        return lambda: None
    from tensorflow.python.eager import context as eager  # the global seed has no public getter

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
