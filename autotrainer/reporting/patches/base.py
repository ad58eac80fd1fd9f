"""Edits in words and as lines of code: where each kind of edit adds its own, and how names and numbers are written.

Lines that are no comments run as they stand: in PyTorch behind the making of ``model`` and ``optimizer``
(``stop_early`` and clipping inside the loop), in Keras behind ``model.compile``. What needs the user's own hand is a
comment.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from autotrainer.edits import Edit, SwapOptimizer

__all__ = [
    "OPTIMIZERS",
    "inner_layer",
    "keras_lines",
    "names",
    "numbers",
    "optimizer_arguments",
    "optimizer_with",
    "pytorch_lines",
    "words",
]

OPTIMIZERS = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "adamax": "Adamax",
    "rmsprop": "RMSprop",
}
"""Optimizers as papers and Keras spell them."""


@singledispatch
def pytorch_lines(edit: Edit) -> list[str]:
    """Return an edit as lines of PyTorch code."""
    raise TypeError(f"no lines for {type(edit).__name__}")


@singledispatch
def keras_lines(edit: Edit) -> list[str]:
    """Return an edit as lines of Keras code."""
    raise TypeError(f"no lines for {type(edit).__name__}")


@singledispatch
def words(edit: Edit) -> str:
    """Return an edit as one sentence without a full stop."""
    raise TypeError(f"no words for {type(edit).__name__}")


def numbers(values: Sequence[float]) -> str:
    """Return numbers as a list in Python, six digits each."""
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def optimizer_arguments(edit: SwapOptimizer) -> str:
    """Return the arguments of an optimizer behind its learning rate, which are the same in both frameworks."""
    momentum = f", momentum={edit.momentum:g}" if edit.momentum else ""
    decay = f", weight_decay={edit.weight_decay:g}" if edit.weight_decay or edit.name == "adamw" else ""  # has one
    return momentum + decay


def optimizer_with(**settings: object) -> str:
    """Return the line of Keras code that makes the optimizer anew with other settings."""
    changed = ", ".join(f"{name!r}: {value!r}" for name, value in settings.items())
    return f"model.optimizer = model.optimizer.from_config({{**model.optimizer.get_config(), {changed}}})"


def inner_layer(name: str) -> str:
    """Return the expression for a layer of a Keras model, which may lie in a model inside."""
    return "model" + "".join(f".get_layer({part!r})" for part in name.split("/"))


def names(layers: Sequence[str]) -> str:
    """Return names of layers, six at most."""
    shown = ", ".join(f"`{name}`" for name in layers[:6])
    return shown + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")
