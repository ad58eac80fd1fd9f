"""Space of the searches over training settings, the alternatives to ``fit`` in ``repair``.

Kim, Humbatova, Jahangirova, Tonella and Yoo ("Repairing DNN Architecture: Are We There Yet?", ICST 2023, arXiv
2301.11568) found that random search repairs faulty models as well as AUTOTRAINER, HEBO and BOHB, or better. Their space
is that of the faults: activation functions, initializers, loss, optimizer, learning rate, epochs and batch size. What
they change in later work ("An empirical study of fault localisation techniques for deep neural networks", Empir. Softw.
Eng. 30 (2025) 124, table 4) is adopted unchanged: other predefined values of Keras for activation, initializer,
loss and optimizer; epochs × 2 and ÷ 2; batches of 16, 32, 64, 128, 256 or 512. They also
state that rates were drawn uniformly; the limits of the range are ours and cover the rates of all working cases.

Three choices favour the search here: it keeps the original training where nothing is better on the validation data, it
draws loss and output activation together from the pairs that fit the targets, and it skips a draw that would exceed the
budget at no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.cases.case import Program

__all__ = ["LOG_UNIFORM", "RATES", "SPACE", "UNIFORM", "Space", "draw_program", "output_pairs", "with_settings"]

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
"""Choices, all equally likely; ``epochs`` are multiples of the original number."""

_BINARY_PAIRS: tuple[tuple[str | None, str], ...] = (
    ("sigmoid", "bce_clipped"),
    ("sigmoid", "mse"),
    (None, "bce_logits"),
)
_OUTPUT_PAIRS: Mapping[str, tuple[tuple[str | None, str], ...]] = {
    "binary": _BINARY_PAIRS,
    "binary_plus1": _BINARY_PAIRS,
    "float_flat": _BINARY_PAIRS[:2],
    "pm1": (("tanh", "mse"), (None, "mse")),
    "onehot": (("softmax", "cce"), ("softmax", "mse"), ("sigmoid", "bce_clipped")),
    "index": (("softmax", "scce"), (None, "ce_logits")),
    "tag_index_plus1": (("softmax", "scce"),),
}
_REGRESSION_PAIRS: tuple[tuple[str | None, str], ...] = ((None, "mse"),)

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
    """Redraw every setting of a training; layers, data and metric stay.

    Args:
        program: The original training.
        space: How rates are drawn.
        draw: Random generator.
    """
    settings = {name: choices[int(draw.integers(len(choices)))] for name, choices in SPACE.items()}
    pairs = output_pairs(program)
    return with_settings(program, settings, pairs[int(draw.integers(len(pairs)))], space.rate(draw))


def output_pairs(program: Program) -> Sequence[tuple[str | None, str]]:
    """Return the pairs of output activation and loss that fit the targets of a training."""
    return _REGRESSION_PAIRS if program.metric == "r2" else _OUTPUT_PAIRS.get(program.layout, _BINARY_PAIRS)


def with_settings(
    program: Program, settings: Mapping[str, Any], output: tuple[str | None, str], rate: float
) -> Program:
    """Return a training with other settings.

    Args:
        program: The original training.
        settings: A choice for each name of `SPACE`.
        output: Output activation and loss.
        rate: Learning rate.
    """
    activation, loss = output
    following = [program.layers[i + 1 :] for i in range(len(program.layers))]
    layers = [
        _hidden(layer, _has_separate_activation(rest), settings)
        for layer, rest in zip(program.layers, following, strict=True)
    ]
    return replace(
        program,
        layers=tuple(_with_output_activation(layers, activation)),
        loss=loss,
        optimizer={"name": settings["optimizer"], "lr": rate},
        batch_size=settings["batch_size"],
        epochs=max(1, round(program.epochs * settings["epochs"])),
    )


def _hidden(layer: Mapping[str, Any], separate_activation: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    if layer["type"] == "activation":
        return {"type": "activation", "fn": settings["activation"]}
    if layer["type"] not in _CONVERTIBLE:
        return dict(layer)
    kept = {name: value for name, value in layer.items() if name not in ("activation", "bias_init", "bias_const")}
    return {**kept, "init": settings["init"], **({} if separate_activation else {"activation": settings["activation"]})}


def _has_separate_activation(following: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a layer's activation is a separate layer, perhaps after a normalization or dropout."""
    return next((layer["type"] == "activation" for layer in following if layer["type"] not in _BETWEEN), False)


def _with_output_activation(layers: list[dict[str, Any]], activation: str | None) -> list[dict[str, Any]]:
    """Set the output activation, whether it is a separate layer or a setting of the last one."""
    *before, last = layers
    if last["type"] == "activation":
        return [*before, {"type": "activation", "fn": activation}] if activation else before
    return [*before, {**last, "activation": activation}]
