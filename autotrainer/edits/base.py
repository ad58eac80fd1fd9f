"""What all edits share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

from autotrainer.errors import ConfigError

__all__ = ["INITIALIZER", "Activation", "Edit", "Initializer", "Optimizer", "check_number", "initializer_for"]

Activation = Literal[
    "linear", "relu", "selu", "elu", "leaky_relu", "thresholded_relu", "gelu", "tanh", "sigmoid", "softmax"
]
Optimizer = Literal["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop"]
Initializer = Literal["he_uniform", "he_normal", "lecun_normal", "glorot_uniform", "glorot_normal", "orthogonal"]

INITIALIZER: Mapping[str, Initializer] = {
    "relu": "he_uniform",
    "leaky_relu": "he_uniform",
    "thresholded_relu": "he_uniform",
    "elu": "he_uniform",
    "gelu": "he_uniform",
    "silu": "he_uniform",
    "selu": "lecun_normal",
    "tanh": "glorot_uniform",
    "sigmoid": "glorot_uniform",
    "linear": "glorot_uniform",
    "softmax": "glorot_uniform",
}
"""Initializer by activation: He et al. 2015 (1502.01852), Klambauer et al. 2017 (1706.02515, section 3) for SELU,
Glorot and Bengio 2010 for the symmetric ones."""


def initializer_for(activation: str | None) -> Initializer:
    """Return the initializer that suits an activation, by `INITIALIZER`; Glorot uniform for any other or none."""
    return INITIALIZER.get(activation or "linear", "glorot_uniform")


@dataclass(frozen=True, slots=True)
class Edit:
    """Base of all edits."""

    change: ClassVar[int] = 0
    """How far it changes the training: 0 settings only, 1 weights and activations, 2 inserted layers, 3 more."""
    memory: ClassVar[bool] = False
    """Whether it takes more memory than the training as given."""
    says_first: ClassVar[str | None] = None
    """What the user must know first: ``input``, ``output``, ``loss``, ``data``, ``length`` or ``architecture``."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; ``edit`` is the kind."""
        return {"edit": type(self).__name__, **asdict(self)}


def check_number(
    edit: Edit,
    name: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> None:
    """Check a number of an edit: least <= number <= most, above < number < below, finite, and whole where it must be.

    Raises:
        ConfigError: If it is none, or out of range; says what it may be.
    """
    value = getattr(edit, name)
    kind = Integral if whole else Real
    fine = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if fine and least <= value <= most and above < value < below:
        return
    limits = {">=": least, ">": above, "<=": most, "<": below}
    said = " and ".join(f"{sign} {limit:g}" for sign, limit in limits.items() if math.isfinite(limit))
    what = "whole number" if whole else "number"
    raise ConfigError(f"{type(edit).__name__}: {name} must be a {what} {said}, not {value!r}")
