"""Families on images and pairs, and of several networks or losses."""

from __future__ import annotations

from typing import Any

from benchmarks.generator.families.family import Draw, activation_of, choose_optimizer, dense, hidden, training
from benchmarks.generator.recipes import Row, pick

__all__ = ["COMPOSITE_FAULTS", "branches", "denoising", "gan", "pairs", "rankings", "segments", "vae"]

Pair = tuple[Row, Row]

COMPOSITE_FAULTS = ("rate_too_high", "rate_too_low", "no_zero_grad", "zero_network", "tiny_inputs")
"""Faults that fit programs of several networks; see also each family."""


def _conv(filters: int, activation: str | None) -> Row:
    return {"type": "conv2d", "filters": filters, "kernel": 3, "padding": "same", "activation": activation}


def denoising(kind: str, draw: Draw) -> Pair:
    """Clean images from noisy ones, by convolutions alone."""
    activation = str(pick(draw, "relu", "tanh"))
    layers = [_conv(12, activation), _conv(12, activation), _conv(1, "sigmoid" if kind == "sigmoid" else None)]
    row = training(
        draw,
        layers,
        str(pick(draw, "mse", "mae")),
        choose_optimizer(draw, 0.004, 0),
        {"generator": "blots", "scaling": "raw", "target_scaling": "raw", "label_encoding": "values"},
        epochs=12,
        batch_size=int(pick(draw, 8, 16)),
        metric="r2",
    )
    return row, {"task": "images", "outputs": 1, "reached": 0.82}


def segments(kind: str, draw: Draw) -> Pair:
    """A class for each pixel."""
    layers = [_conv(8, "relu"), _conv(8, "relu"), _conv(2, None)]
    dataset: Row = {"generator": "blots", "settings": {"task": "mask"}, "scaling": "raw", "label_encoding": "index"}
    common: Row = {"epochs": 12, "batch_size": int(pick(draw, 8, 16)), "metric": "tag_accuracy"}
    row = training(draw, layers, "ce_logits", choose_optimizer(draw, 0.004, 0), dataset, **common)
    return row, {"task": "pixels", "outputs": 2, "reached": 0.93}


def pairs(kind: str, draw: Draw) -> Pair:
    """Whether two rows belong together, by the distance of what one network makes of them."""
    inner = [*hidden(draw, (32,), (1, 2)), dense(int(pick(draw, 4, 8)))]
    row = training(
        draw,
        [{"type": "twins", "layers": inner}],
        "contrastive",
        choose_optimizer(draw, 0.003, 0),
        {"generator": "pairs", "scaling": "raw", "target_scaling": "raw", "label_encoding": "float_flat"},
        epochs=15,
        batch_size=int(pick(draw, 16, 32)),
        metric="pair_accuracy",
    )
    return row, {"task": "pairs", "outputs": 1, "reached": 0.93}


def rankings(kind: str, draw: Draw) -> Pair:
    """Which of two rows is better, by the difference of two scores of one network."""
    row = training(
        draw,
        [{"type": "twins", "layers": [*hidden(draw, (32,), (1, 2)), dense(1)]}],
        f"{kind}_rank",
        choose_optimizer(draw, 0.003, 0),
        {"generator": "preferences", "scaling": "raw", "target_scaling": "raw", "label_encoding": "float_flat"},
        epochs=20,
        batch_size=int(pick(draw, 16, 32)),
        metric="rank_accuracy",
    )
    return row, {"task": "pairs", "outputs": 1, "reached": 0.87}


def branches(kind: str, draw: Draw) -> Pair:
    """One network with a class and a value as outputs, and the sum of two losses."""
    activation = activation_of(draw)
    layers: Any = [
        {"type": "trunk", "layers": [dense(32, activation), dense(32, activation)]},
        {"type": "head", "layers": [dense(3)], "loss": "ce_logits", "weight": 1.0},
        {"type": "head", "layers": [dense(1)], "loss": "mse", "weight": float(pick(draw, 0.5, 1.0))},
    ]
    dataset: Row = {"generator": "both", "scaling": "raw", "target_scaling": "raw", "label_encoding": "values"}
    common: Row = {"epochs": 20, "batch_size": int(pick(draw, 16, 32)), "metric": "r2"}
    row = training(draw, layers, "composite", choose_optimizer(draw, 0.003, 0.02, schedule=False), dataset, **common)
    return row, {"task": "branches", "outputs": 2, "reached": 0.82}


def gan(kind: str, draw: Draw) -> Pair:
    """A generator of points and a discriminator."""
    layers: Any = [
        {"type": "generator", "layers": [dense(32, "relu"), dense(32, "relu"), dense(2)]},
        {"type": "discriminator", "layers": [dense(32, "leaky_relu"), dense(32, "leaky_relu"), dense(1)]},
    ]
    optimizer: Row = {"name": "adam", "lr": 0.001, "beta_1": 0.5}
    dataset: Row = {"generator": "ring", "scaling": "raw", "target_scaling": "raw", "label_encoding": "values"}
    common: Row = {"epochs": 90, "batch_size": int(pick(draw, 32, 64)), "metric": "sample_quality"}
    row = training(draw, layers, "composite", optimizer, dataset, **common)
    return row, {"task": "samples", "outputs": 2, "reached": 0.9}


def vae(kind: str, draw: Draw) -> Pair:
    """A variational autoencoder, whose loss is a function of three outputs."""
    inner, columns, code = str(pick(draw, "relu", "tanh")), 20, 4
    layers: Any = [
        {"type": "encoder", "layers": [dense(32, inner), dense(2 * code)]},
        {"type": "decoder", "layers": [dense(32, inner), dense(columns, "sigmoid" if kind == "sigmoid" else None)]},
    ]
    dataset: Row = {"generator": "manifold", "settings": {"columns": columns, "form": "unit"}, "scaling": "raw"}
    dataset |= {"target_scaling": "raw", "label_encoding": "values", "targets": "inputs"}
    common: Row = {"epochs": 30, "batch_size": int(pick(draw, 16, 32)), "metric": "r2"}
    row = training(draw, layers, "composite", choose_optimizer(draw, 0.003, 0, schedule=False), dataset, **common)
    return row, {"task": "variational", "outputs": columns, "reached": 0.6}
