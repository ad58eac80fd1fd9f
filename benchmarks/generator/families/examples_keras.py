"""Examples of Keras in miniature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.generator.families.examples_parts import (
    DIGITS,
    FLAT,
    REVIEWS,
    VOCABULARY,
    Example,
    adam,
    conv,
    drop,
    embed,
    like,
    pool,
)
from benchmarks.generator.families.family import Draw, dense, transformer
from benchmarks.generator.recipes import Row

__all__ = ["KERAS"]


def _convnet(draw: Draw) -> Any:
    layers = [conv(32), pool(), conv(64), pool(), FLAT, drop(0.5), dense(10, "softmax")]
    return layers, "cce", adam(), {**DIGITS, "label_encoding": "onehot"}, like(epochs=12, batch_size=64, reached=0.96)


def _bidirectional_lstm(draw: Draw) -> Any:
    lstm = {"type": "lstm", "units": 24, "bidirectional": True}
    layers = [embed(VOCABULARY, 32), {**lstm, "return_sequences": True}, lstm, dense(1, "sigmoid")]
    return layers, "bce", adam(0.002), REVIEWS, like(epochs=6, reached=0.95)


def _text_transformer(draw: Draw) -> Any:
    layers: Any = [
        embed(VOCABULARY, 32),
        *transformer(draw, 32),
        {"type": "mean"},
        drop(0.1),
        dense(20, "relu"),
        drop(0.1),
    ]
    data: Row = {**REVIEWS, "label_encoding": "index"}
    return [*layers, dense(2, "softmax")], "scce", adam(0.002), data, like(epochs=8, reached=0.95)


def _structured(draw: Draw) -> Any:
    layers = [dense(32, "relu"), drop(0.5), dense(1, "sigmoid")]
    data: Row = {"generator": "customers", "scaling": "standard", "label_encoding": "binary"}
    return layers, "bce", adam(), data, like(epochs=40, reached=0.88)


def _weather(draw: Draw) -> Any:
    data: Row = {
        "generator": "forecast",
        "scaling": "standard",
        "target_scaling": "standard",
        "label_encoding": "float",
    }
    return (
        [{"type": "lstm", "units": 32}, dense(1)],
        "mse",
        adam(0.003),
        data,
        like(epochs=15, metric="r2", reached=0.88),
    )


def _autoencoder(draw: Draw) -> Any:
    data: Row = {"generator": "manifold", "settings": {"columns": 32}, "scaling": "raw", "label_encoding": "values"}
    layers = [dense(8, "relu"), dense(32, "sigmoid")]
    return layers, "bce", adam(0.003), {**data, "targets": "inputs"}, like(epochs=50, metric="r2", reached=0.75)


def _signal_classifier(draw: Draw) -> Any:
    conv = {"type": "conv1d", "filters": 24, "kernel": 3, "padding": "same"}
    block = [conv, {"type": "batchnorm"}, {"type": "activation", "fn": "relu"}]
    data: Row = {"generator": "waves", "scaling": "raw", "label_encoding": "index"}
    layers = [*block, *block, *block, FLAT, dense(2, "softmax")]
    return layers, "scce", adam(), data, like(epochs=6, reached=0.97)


def _imbalanced(draw: Draw) -> Any:
    block = [dense(64, "relu"), drop(0.3)]
    data: Row = {
        "generator": "customers",
        "settings": {"imbalance": 0.1},
        "scaling": "standard",
        "label_encoding": "binary",
    }
    return (
        [*block, *block, dense(1, "sigmoid")],
        "bce",
        adam(0.005),
        data,
        like(epochs=20, batch_size=64, reached=0.95),
    )


def _denoising_autoencoder(draw: Draw) -> Any:
    data: Row = {"generator": "blots", "scaling": "raw", "label_encoding": "values"}
    layers = [conv(16), conv(16), conv(1, "sigmoid")]
    return layers, "bce", adam(0.003), data, like(epochs=12, batch_size=16, metric="r2", reached=0.85)


def _addition(draw: Draw) -> Any:
    lstm = {"type": "lstm", "units": 32, "return_sequences": True, "bidirectional": True}
    data: Row = {"generator": "reversal", "scaling": "tokens", "label_encoding": "onehot"}
    layers = [embed(8, 24), lstm, lstm, dense(8, "softmax")]
    return layers, "cce", adam(0.01), data, like(epochs=14, metric="tag_accuracy", reached=0.93)


def _miniature_gpt(draw: Draw) -> Any:
    layers = [embed(14, 32), *transformer(draw, 32, causal=True, blocks=2), dense(14)]
    data: Row = {"generator": "grammar", "scaling": "tokens", "label_encoding": "index"}
    return layers, "ce_logits", adam(0.003), data, like(epochs=16, metric="tag_accuracy", reached=0.78)


KERAS: Mapping[str, Example] = {
    "convnet": _convnet,
    "bidirectional_lstm": _bidirectional_lstm,
    "text_transformer": _text_transformer,
    "structured": _structured,
    "weather": _weather,
    "autoencoder": _autoencoder,
    "signal_classifier": _signal_classifier,
    "imbalanced": _imbalanced,
    "denoising_autoencoder": _denoising_autoencoder,
    "addition": _addition,
    "miniature_gpt": _miniature_gpt,
}
"""Examples by name."""
