"""Random search over training settings: the rival of ``fit`` in ``repair``.

Kim, Humbatova, Jahangirova, Tonella and Yoo ("Repairing DNN Architecture: Are We There Yet?", ICST 2023, arXiv
2301.11568) found that random search repairs faulty models as well as AUTOTRAINER, HEBO and BOHB, or better. Their space
is that of the faults: activation functions, initializers, loss, optimizer, learning rate, epochs and batch size. What
they change in later work ("An empirical study of fault localisation techniques for deep neural networks", Empir. Softw.
Eng. 30 (2025) 124, table 4) is taken as it stands there: other predefined values of Keras for activation, initializer,
loss and optimizer; epochs × 2 and ÷ 2; batches of 16, 32, 64, 128, 256 or 512. Published is also that rates were drawn
uniformly; the ends of the range are ours, as wide as the rates of the cases that work.

Three things favour the search here: it keeps the training as given where nothing is better on the validation data, loss
and output activation are drawn together from the pairs that fit the targets, and a draw that would exceed the budget is
passed over at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.cases.case import Program

__all__ = ["LOG_UNIFORM", "RATES", "SPACE", "UNIFORM", "Space", "draw_program"]

RATES = (1e-4, 1e-1)
"""Lowest and highest learning rate."""

SPACE: Mapping[str, tuple[Any, ...]] = {
    "activation": ("relu", "tanh", "sigmoid"),
    "init": (
        "glorot_normal",
        "glorot_uniform",
        "he_normal",
        "he_uniform",
        "lecun_normal",
        "lecun_uniform",
        "normal005",
        "ones",
        "uniform005",
        "zeros",
    ),
    "optimizer": ("adagrad", "adam", "adamw", "nadam", "rmsprop", "sgd"),
    "batch_size": (16, 32, 64, 128, 256, 512),
    "epochs": (0.5, 1, 2),
}
"""Choices, each as likely as the others; ``epochs`` are multiples of those given."""

_BINARY: tuple[tuple[str | None, str], ...] = (("sigmoid", "bce_clipped"), ("sigmoid", "mse"), (None, "bce_logits"))
_ENDS: Mapping[str, tuple[tuple[str | None, str], ...]] = {
    "binary": _BINARY,
    "binary_plus1": _BINARY,
    "float_flat": _BINARY[:2],
    "pm1": (("tanh", "mse"), (None, "mse")),
    "onehot": (("softmax", "cce"), ("softmax", "mse"), ("sigmoid", "bce_clipped")),
    "index": (("softmax", "scce"), (None, "ce_logits")),
    "tag_index_plus1": (("softmax", "scce"),),
}
_VALUES: tuple[tuple[str | None, str], ...] = ((None, "mse"),)

_CONVERTIBLE = ("dense", "conv1d", "conv2d")
_BETWEEN = ("batchnorm", "dropout", "layernorm", "maxpool1d", "maxpool2d")


@dataclass(frozen=True, slots=True)
class Space:
    """How rates are drawn: uniformly, as published, or uniformly in their logarithm."""

    log_rates: bool

    def rate(self, draw: np.random.Generator) -> float:
        """Draw a learning rate."""
        low, high = RATES
        if self.log_rates:
            return float(np.exp(draw.uniform(np.log(low), np.log(high))))
        return float(draw.uniform(low, high))


UNIFORM, LOG_UNIFORM = Space(log_rates=False), Space(log_rates=True)


def draw_program(program: Program, space: Space, draw: np.random.Generator) -> Program:
    """Draw every setting of a training anew; layers, data and metric stay.

    Args:
        program: The training as given.
        space: How rates are drawn.
        draw: Source of chance.
    """
    picked = {name: choices[int(draw.integers(len(choices)))] for name, choices in SPACE.items()}
    ends = _VALUES if program.metric == "r2" else _ENDS.get(program.layout, _BINARY)
    end, loss = ends[int(draw.integers(len(ends)))]
    after = [program.layers[i + 1 :] for i in range(len(program.layers))]
    layers = [_hidden(layer, _activated_later(rest), picked) for layer, rest in zip(program.layers, after, strict=True)]
    return replace(
        program,
        layers=tuple(_with_end(layers, end)),
        loss=loss,
        optimizer={"name": picked["optimizer"], "lr": space.rate(draw)},
        batch_size=picked["batch_size"],
        epochs=max(1, round(program.epochs * picked["epochs"])),
    )


def _hidden(layer: Mapping[str, Any], later: bool, picked: Mapping[str, Any]) -> dict[str, Any]:
    if layer["type"] == "activation":
        return {"type": "activation", "fn": picked["activation"]}
    if layer["type"] not in _CONVERTIBLE:
        return dict(layer)
    kept = {name: value for name, value in layer.items() if name not in ("activation", "bias_init", "bias_const")}
    return {**kept, "init": picked["init"], **({} if later else {"activation": picked["activation"]})}


def _activated_later(after: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a layer's activation is a layer of its own, perhaps behind a normalization or dropout."""
    return next((layer["type"] == "activation" for layer in after if layer["type"] not in _BETWEEN), False)


def _with_end(layers: list[dict[str, Any]], end: str | None) -> list[dict[str, Any]]:
    """Give the last layer an activation, whether it is a layer of its own or belongs to the one before."""
    *before, last = layers
    if last["type"] == "activation":
        return [*before, {"type": "activation", "fn": end}] if end else before
    return [*before, {**last, "activation": end}]
