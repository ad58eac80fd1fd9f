"""The private names of Keras that this backend needs, imported here alone."""

from __future__ import annotations

from typing import Any

from keras.src import backend
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.saving.object_registration import GLOBAL_CUSTOM_NAMES
from keras.src.saving.serialization_lib import SafeModeScope, deserialize_keras_object
from keras.src.trainers.compile_utils import CompileLoss
from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED
from keras.src.utils.summary_utils import weight_memory_size

__all__ = [
    "GLOBAL_CUSTOM_NAMES",
    "GLOBAL_RANDOM_SEED",
    "GLOBAL_SEED_GENERATOR",
    "CompileLoss",
    "Functional",
    "LossFunctionWrapper",
    "SafeModeScope",
    "backend",
    "deserialize_keras_object",
    "functional_like_constructor",
    "get_global_attribute",
    "get_mask",
    "set_global_attribute",
    "set_mask",
    "weight_memory_size",
]

if hasattr(backend, "get_keras_mask"):
    get_mask, set_mask = backend.get_keras_mask, backend.set_keras_mask
else:  # Keras before 3.7

    def get_mask(tensor: Any) -> Any:
        """Return the mask that Keras has put on a tensor, or None."""
        return getattr(tensor, "_keras_mask", None)

    def set_mask(tensor: Any, mask: Any) -> None:
        """Put a mask on a tensor."""
        tensor._keras_mask = mask
