"""The pictures of all problems, and why some have none."""

from __future__ import annotations

from collections.abc import Mapping

from pictures.data import DATA
from pictures.loops import LOOPS
from pictures.models import MODELS
from pictures.optimization import OPTIMIZATION
from pictures.run import Picture
from pictures.transformers import TRANSFORMERS

__all__ = ["PICTURES", "WITHOUT"]

PICTURES: Mapping[str, Picture] = {**OPTIMIZATION, **MODELS, **DATA, **LOOPS, **TRANSFORMERS}

WITHOUT: Mapping[str, str] = {
    "repeated_augmentation": "a fact about the workers of a loader: loss and gradients of both runs look alike",
}
"""Problems without a picture, and why."""
