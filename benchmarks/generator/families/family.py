"""What a family is, and the parts that recipes are put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.generator.recipes import Row, pick

__all__ = ["Family", "Recipe", "activation_of", "choose_optimizer", "dense", "hidden", "training", "transformer"]

Draw = np.random.Generator
Recipe = Callable[[str, Draw], tuple[Row, Row]]
"""Takes a kind and a random generator; returns a working training and its properties (see `Family`)."""


class Family(NamedTuple):
    """Trainings of one purpose.

    Attributes:
        recipe: Draws a working training and its properties: ``task`` (``binary``, ``classes``, ``labels``, ``tags``,
            ``value``, ``inputs`` or one that no fault of targets fits), ``outputs``, ``reached`` (a score that a good
            training reaches), ``raw`` (unscaled inputs are a fault) and those of `recipes.DATA` that a fault asks for.
        kinds: Kinds of network or loss.
        reserved: Whether the family is never used for calibration.
        faults: The faults that can be injected; empty for all that fit the task.
    """

    recipe: Recipe
    kinds: tuple[str, ...]
    reserved: bool = False
    faults: tuple[str, ...] = ()


def dense(units: int, activation: str | None = None, **settings: Any) -> Row:
    """Return a dense layer."""
    return {"type": "dense", "units": int(units), "activation": activation, **settings}


def activation_of(draw: Draw) -> str:
    """Return a hidden activation, ReLU most often."""
    return str(pick(draw, "relu", "relu", "relu", "tanh", "gelu", "elu", "leaky_relu"))


def hidden(draw: Draw, widths: Sequence[int], depths: Sequence[int] = (1, 2), *, norm: bool = False) -> list[Row]:
    """Return dense hidden layers of one activation; with ``norm`` each with batch norm and, perhaps, dropout."""
    activation, width = activation_of(draw), int(pick(draw, *widths))
    layers: list[Row] = []
    for _ in range(int(pick(draw, *depths))):
        if norm:
            layers += [dense(width), {"type": "batchnorm"}, {"type": "activation", "fn": activation}]
            layers += [{"type": "dropout", "rate": float(pick(draw, 0.1, 0.2, 0.3))}] if draw.random() < 0.5 else []
        else:
            layers.append(dense(width, activation))
    return layers


def transformer(draw: Draw, units: int, *, blocks: int = 1, causal: bool = False, position: bool = True) -> list[Row]:
    """Return blocks of attention and two dense layers, with layer norm before each."""
    attention: Row = {"type": "attention", "heads": int(pick(draw, 2, 4))}
    if causal:
        attention["causal"] = True
    mlp = [{"type": "layernorm"}, dense(2 * units, str(pick(draw, "relu", "gelu"))), dense(units)]
    block = [
        {"type": "residual", "layers": [{"type": "layernorm"}, attention]},
        {"type": "residual", "layers": mlp},
    ]
    return [*([{"type": "position"}] if position else []), *block * blocks, {"type": "layernorm"}]


def choose_optimizer(draw: Draw, adam: float = 0.003, momentum: float = 0.05, *, schedule: bool = True) -> Row:
    """Return an optimizer with a rate that suits it; sometimes with a schedule.

    Args:
        draw: Random generator.
        adam: Rate of Adam and those like it.
        momentum: Rate of SGD with momentum; 0: adaptive optimizers only.
        schedule: Whether the rate may fall in the course of the training.
    """
    adaptive = [("adam", adam), ("adam", adam), ("adamw", adam), ("nadam", adam), ("rmsprop", adam / 2)]
    adaptive.append(("adamax", 2 * adam))
    name, rate = pick(draw, *adaptive, *([("sgd", momentum)] * 2 if momentum else []))
    chosen = {"name": name, "lr": rate * float(pick(draw, 0.5, 1, 1, 1.5))}
    if name == "sgd":
        chosen["momentum"] = 0.9
    if name == "adamw":
        chosen["weight_decay"] = 0.01
    if schedule and draw.random() < 0.2:
        chosen["schedule"] = str(pick(draw, "cosine", "exponential"))
    return chosen


def training(
    draw: Draw,
    layers: Sequence[Row],
    loss: str,
    optimizer: Row,
    dataset: Row,
    *,
    epochs: int,
    batch_size: int,
    metric: str = "accuracy",
) -> Row:
    """Return a training as a line of a case file, with initializers and habits of the loop drawn.

    Half of the trainings draw weights as PyTorch does, half as Keras does. One in five passes the loss as a function,
    one in seven gives the monitor neither the number of epochs nor their ends.
    """
    loop: Row = {}
    if draw.random() < 0.2:
        loop["loss_call"] = "functional"
    if draw.random() < 0.15:
        loop["reporting"] = "none"
    return {
        "layers": list(layers),
        "loss": loss,
        "optimizer": optimizer,
        "batch_size": int(batch_size),
        "epochs": int(epochs),
        "dataset": {"draw": int(draw.integers(1_000_000)), **dataset},
        "default_init": str(pick(draw, "glorot_uniform", "framework")),
        "metric": metric,
        "loop": loop,
    }
