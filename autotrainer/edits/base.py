"""What all edits share: the base class, the types of their fields, and the check of their values."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from autotrainer.errors import ConfigError, nearest
from autotrainer.safe_text import safe_line

__all__ = [
    "INITIALIZER",
    "OPTIMIZERS",
    "Activation",
    "Count",
    "Edit",
    "Fraction",
    "Initializer",
    "Layers",
    "NonNegative",
    "Optimizer",
    "Positive",
    "Range",
    "Whole",
    "checked",
    "initializer_for",
    "is_number",
    "join_names",
    "join_numbers",
    "quoted",
    "shorten",
]

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

OPTIMIZERS: Mapping[str, str] = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "adamax": "Adamax",
    "rmsprop": "RMSprop",
}
"""Optimizers as papers and Keras spell them."""


def initializer_for(activation: str | None) -> Initializer:
    """Return the initializer that suits an activation, by `INITIALIZER`; Glorot uniform for any other or none."""
    return INITIALIZER.get(activation or "linear", "glorot_uniform")


@dataclass(frozen=True, slots=True)
class Range:
    """The finite numbers that a field accepts: least <= number <= most and above < number < below."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.least <= number <= self.most and self.above < number < self.below

    def __str__(self) -> str:
        limits = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        return " and ".join(f"{sign} {limit:g}" for sign, limit in limits.items() if math.isfinite(limit))


NOT_EMPTY = "not empty"
"""Marks the type of a tuple that must have an element."""

# types of fields that state the values they accept
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Fraction = Annotated[float, Range(least=0, below=1)]
Count = Annotated[int, Range(least=1)]
Whole = Annotated[int, Range(least=0)]
Layers = Annotated[tuple[str, ...], NOT_EMPTY]


@dataclass(frozen=True, slots=True)
class Edit:
    """Base of all edits: a frozen record of plain values that refuses those that make no sense.

    The types of the fields say what they accept: numbers are finite, those of `Annotated` types within their `Range`,
    names of a `Literal` are among its values, and a tuple of strings holds names of layers.

    Raises:
        ConfigError: If a value does not fit the type of its field; says what is accepted.
    """

    change: ClassVar[int] = 0
    """How far it changes the training: 0 settings only, 1 weights and activations, 2 inserted layers, 3 more."""
    memory: ClassVar[bool] = False
    """Whether it takes more memory than the original training."""
    affects: ClassVar[str | None] = None
    """What it changes that a user must know about: ``input``, ``output``, ``loss``, ``data``, ``length``,
    ``architecture`` or ``frozen layers``."""
    example_values: ClassVar[Mapping[str, Any]] = {}
    """Values of the required fields other than ``layers``, for `example`."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, hint in _hints(kind).items():
            object.__setattr__(self, name, checked(f"{kind.__name__}: {name}", getattr(self, name), hint))

    def __str__(self) -> str:
        """Return what it changes as one sentence, without a full stop."""
        return repr(self)

    @classmethod
    def example(cls, layers: tuple[str, ...]) -> Edit:
        """Return an edit of this kind that suits a binary classifier with these hidden layers, for tests."""
        required = {field.name for field in fields(cls) if field.default is MISSING}
        return cls(**({"layers": layers} if "layers" in required else {}), **cls.example_values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; ``edit`` is the kind."""
        return {"edit": type(self).__name__, **asdict(self)}


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


_FINITE = Range()


def checked(name: str, value: Any, accepts: Any) -> Any:
    """Return a value as a plain one, if it fits a type as the fields of an edit have.

    Args:
        name: What the value is called, for messages.
        value: The value; scalars of NumPy and of frameworks count as numbers.
        accepts: The type, such as ``Count | None``.

    Raises:
        ConfigError: If it does not fit; says what is accepted.
    """
    is_tensor = type(value).__module__.startswith("tensorflow") and getattr(value, "shape", None) == ()
    value = _plain(value.numpy() if is_tensor else value)  # TensorFlow's scalars have no ``item``
    accepted = _mismatch(value, accepts)
    if accepted:
        raise ConfigError(f"{name} must be {accepted}, not {shorten(value)}{_suggestion(value, accepts)}")
    return value


def _plain(value: Any) -> Any:
    """Return scalars of NumPy and of frameworks as Python's, and lists and arrays of rank 1 as tuples of them.

    What is no such value is returned as it is.
    """
    try:
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        return tuple(map(_scalar, value)) if isinstance(value, list | tuple) else _scalar(value)
    except Exception:  # noqa: BLE001 - such as a tensor without data
        return value


def _scalar(value: Any) -> Any:
    has_item = getattr(value, "shape", None) == () and callable(getattr(value, "item", None))
    if has_item:
        value = value.item()
    # a subclass may have another text than its value, and texts become code
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value


def _mismatch(value: Any, hint: Any, limits: Range = _FINITE) -> str:
    """Return what a type accepts if the value does not fit it, else an empty text."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, mark = arguments
        if mark == NOT_EMPTY:
            return _mismatch(value, inner) or ("" if value else "a tuple of one or more names")
        return _mismatch(value, inner, mark)
    if origin in (Union, UnionType):
        options = [_mismatch(value, option) for option in arguments if option is not type(None)]
        if "" in options or (value is None and type(None) in arguments):
            return ""
        return " or ".join([*options, *(["None"] if type(None) in arguments else [])])
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return ""
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        return _tuple_mismatch(value, arguments)
    if hint is bool:
        return "" if isinstance(value, bool) else "True or False"
    if hint in (int, float):
        kind = "whole number" if hint is int else "number"
        if is_number(value, hint) and value in limits:
            return ""
        return f"a {kind} {limits}" if str(limits) else f"a finite {kind}"
    if hint is str:
        return "" if isinstance(value, str) and value else "a name"
    return ""


def _tuple_mismatch(value: Any, arguments: tuple[Any, ...]) -> str:
    element, length = arguments[0], None if arguments[-1] is Ellipsis else len(arguments)
    if isinstance(value, tuple) and length in (None, len(value)) and not any(_mismatch(v, element) for v in value):
        return ""
    count = f"{length} " if length else ""
    kind = _mismatch(None, element).removeprefix("a ").replace("number", "numbers").replace("name", "names")
    return f"a tuple of {count}{kind}"


def _suggestion(value: Any, hint: Any) -> str:
    if get_origin(hint) is not Literal or not isinstance(value, str):
        return ""
    text = nearest(value[:100], get_args(hint))
    return f": {text}" if text.startswith("did you mean") else ""


def is_number(value: Any, kind: type = float) -> bool:
    """Return whether a value is a finite number of Python or NumPy, or a whole one for ``int``."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return bool(-sys.maxsize <= value <= sys.maxsize)
    return kind is float and isinstance(value, float | np.floating) and math.isfinite(value)


def shorten(value: Any) -> str:
    """Return a value as text for a message, whatever it is and however large."""
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - such as a number of more digits than Python prints, or a broken `repr`
        return f"a value of type {type(value).__name__}"


def quoted(name: str) -> str:
    """Return the name of a layer as text."""
    return f"`{safe_line(name)}`"


def join_names(layers: Sequence[str]) -> str:
    """Return names of layers as text, six at most."""
    shown = ", ".join(map(quoted, layers[:6]))
    return shown + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")


def join_numbers(numbers: Sequence[float]) -> str:
    """Return numbers as text, three digits each and eight at most."""
    return ", ".join(f"{number:.3g}" for number in numbers[:8]) + (", …" if len(numbers) > 8 else "")
