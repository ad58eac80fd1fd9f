"""Examples of PyTorch in miniature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.generator.families.examples_parts import DIGITS, FLAT, Example, adam, conv, drop, embed, like, pool
from benchmarks.generator.families.family import Draw, dense
from benchmarks.generator.recipes import Row, pick

__all__ = ["PYTORCH"]


def _mnist(draw: Draw) -> Any:
    layers = [conv(16), conv(32), pool(), drop(0.25), FLAT, dense(64, "relu"), drop(0.5), dense(10)]
    optimizer: Row = {"name": "adadelta", "lr": 1.0, "schedule": "exponential"}
    return layers, "ce_logits", optimizer, DIGITS, like(epochs=8, reached=0.97)


def _word_language_model(draw: Draw) -> Any:
    """SGD at a rate of 20 with gradients clipped at 0.25."""
    lstm = {"type": "lstm", "units": 48, "return_sequences": True}
    layers = [embed(14, 32), drop(0.1), lstm, lstm, drop(0.1), dense(14)]
    data: Row = {"generator": "grammar", "settings": {"words": 14}, "scaling": "tokens", "label_encoding": "index"}
    optimizer: Row = {"name": "sgd", "lr": float(pick(draw, 10.0, 20.0)), "clip_norm": 0.25}
    return layers, "ce_flat", optimizer, data, like(epochs=16, batch_size=20, metric="tag_accuracy", reached=0.78)


def _variational(draw: Draw) -> Any:
    """The loss is summed over the batch."""
    layers: Any = [
        {"type": "encoder", "layers": [dense(48, "relu"), dense(8)]},
        {"type": "decoder", "layers": [dense(48, "relu"), dense(20, "sigmoid")], "summed": True},
    ]
    data: Row = {"generator": "manifold", "scaling": "raw", "label_encoding": "values", "targets": "inputs"}
    return layers, "composite", adam(0.002), data, like(epochs=30, metric="r2", reached=0.6)


def _siamese(draw: Draw) -> Any:
    layers = [{"type": "twins", "layers": [dense(48, "relu"), drop(0.1), dense(48, "relu"), dense(8)]}]
    data: Row = {"generator": "pairs", "scaling": "raw", "label_encoding": "float_flat"}
    optimizer: Row = {"name": "rmsprop", "lr": 0.001}
    return layers, "contrastive", optimizer, data, like(epochs=12, metric="pair_accuracy", reached=0.93)


def _super_resolution(draw: Draw) -> Any:
    layers = [conv(16, "relu", 5), conv(16), conv(8), conv(1, None)]
    data: Row = {"generator": "blots", "settings": {"noise": 0.2}, "scaling": "raw", "label_encoding": "values"}
    return layers, "mse", adam(0.002), data, like(epochs=14, batch_size=8, metric="r2", reached=0.88)


def _actor_critic(draw: Draw) -> Any:
    layers: Any = [
        {"type": "policy", "layers": [dense(32, "relu"), dense(3)]},
        {"type": "critic", "layers": [dense(32, "relu"), dense(1)]},
    ]
    data: Row = {
        "generator": "groups",
        "settings": {"classes": 3, "columns": 4},
        "scaling": "raw",
        "label_encoding": "index",
    }
    return layers, "composite", adam(0.005), data, like(epochs=30, batch_size=32, reached=0.95)


def _adversarial(draw: Draw) -> Any:
    layers: Any = [
        {"type": "generator", "layers": [dense(48, "leaky_relu"), dense(48, "leaky_relu"), dense(2)]},
        {"type": "discriminator", "layers": [dense(48, "leaky_relu"), dense(48, "leaky_relu"), dense(1)]},
    ]
    optimizer: Row = {"name": "adam", "lr": 0.0005, "beta_1": 0.5}
    data: Row = {"generator": "ring", "scaling": "raw", "label_encoding": "values"}
    return layers, "composite", optimizer, data, like(epochs=120, batch_size=64, metric="sample_quality")


def _mnist_rnn(draw: Draw) -> Any:
    layers = [{"type": "lstm", "units": 32}, {"type": "batchnorm"}, drop(0.1), dense(10)]
    data: Row = {**DIGITS, "shape": [8, 8]}
    return layers, "ce_logits", {"name": "adadelta", "lr": 1.0}, data, like(epochs=20, reached=0.9)


def _mnist_hogwild(draw: Draw) -> Any:
    layers = [conv(10), pool(), conv(20), drop(0.2), pool(), FLAT, dense(50, "relu"), drop(0.2), dense(10)]
    optimizer: Row = {"name": "sgd", "lr": 0.05, "momentum": 0.5}
    return layers, "ce_logits", optimizer, DIGITS, like(epochs=12, reached=0.95)


def _regression(draw: Draw) -> Any:
    data: Row = {"generator": "line", "settings": {"columns": 2}, "scaling": "standard", "target_scaling": "standard"}
    data |= {"label_encoding": "float"}
    return [dense(1)], "huber", {"name": "sgd", "lr": 0.1}, data, like(metric="r2", reached=0.99)


PYTORCH: Mapping[str, Example] = {
    "mnist": _mnist,
    "word_language_model": _word_language_model,
    "vae": _variational,
    "siamese": _siamese,
    "super_resolution": _super_resolution,
    "actor_critic": _actor_critic,
    "gan": _adversarial,
    "mnist_rnn": _mnist_rnn,
    "mnist_hogwild": _mnist_hogwild,
    "regression": _regression,
}
"""Examples by name."""
