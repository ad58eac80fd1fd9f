"""Official examples of PyTorch and Keras in miniature: their networks, losses, optimizers and rates on small data.

They are known to work, so only the healthy source draws from them; what a threshold makes of them is never tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.data.builtin import VOCABULARY
from benchmarks.generator.families.family import Draw, Family, dense, training, transformer
from benchmarks.generator.recipes import Row, pick

__all__ = ["EXAMPLES"]

Example = Callable[[Draw], tuple[list[Row], str, Row, Row, dict[str, Any]]]
"""Returns layers, loss, optimizer, data, and ``epochs``, ``batch_size``, ``metric`` and ``reached``."""

DIGITS: Row = {"generator": "digit_images", "scaling": "raw", "label_encoding": "index"}
SHAPES: Row = {"generator": "shapes", "scaling": "div255", "label_encoding": "index"}
REVIEWS: Row = {"generator": "reviews", "scaling": "tokens", "label_encoding": "binary"}
FLAT: Row = {"type": "flatten"}


def _conv(filters: int, activation: str | None = "relu", kernel: int = 3) -> Row:
    return {"type": "conv2d", "filters": filters, "kernel": kernel, "padding": "same", "activation": activation}


def _pool(size: int = 2) -> Row:
    return {"type": "maxpool2d", "size": size}


def _drop(rate: float) -> Row:
    return {"type": "dropout", "rate": rate}


def _embed(vocabulary: int, units: int) -> Row:
    return {"type": "embedding", "vocabulary": vocabulary, "units": units}


def _adam(rate: float = 0.001) -> Row:
    return {"name": "adam", "lr": rate}


def _like(**options: Any) -> dict[str, Any]:
    return {"epochs": 10, "batch_size": 32, "metric": "accuracy", "reached": 0.9, **options}


def _mnist(draw: Draw) -> Any:
    layers = [_conv(16), _conv(32), _pool(), _drop(0.25), FLAT, dense(64, "relu"), _drop(0.5), dense(10)]
    optimizer = {"name": "adadelta", "lr": 1.0, "schedule": "exponential"}
    return layers, "ce_logits", optimizer, DIGITS, _like(epochs=8, reached=0.97)


def _mnist_rnn(draw: Draw) -> Any:
    layers = [{"type": "lstm", "units": 32}, {"type": "batchnorm"}, _drop(0.1), dense(10)]
    data = {**DIGITS, "shape": [8, 8]}
    return layers, "ce_logits", {"name": "adadelta", "lr": 1.0}, data, _like(epochs=20, reached=0.9)


def _mnist_hogwild(draw: Draw) -> Any:
    layers = [_conv(10), _pool(), _conv(20), _drop(0.2), _pool(), FLAT, dense(50, "relu"), _drop(0.2), dense(10)]
    optimizer = {"name": "sgd", "lr": 0.05, "momentum": 0.5}
    return layers, "ce_logits", optimizer, DIGITS, _like(epochs=12, reached=0.95)


def _word_language_model(draw: Draw) -> Any:
    """SGD at a rate of 20 with gradients clipped at 0.25."""
    lstm = {"type": "lstm", "units": 48, "return_sequences": True}
    layers = [_embed(14, 32), _drop(0.1), lstm, lstm, _drop(0.1), dense(14)]
    data = {"generator": "grammar", "settings": {"words": 14}, "scaling": "tokens", "label_encoding": "index"}
    optimizer = {"name": "sgd", "lr": float(pick(draw, 10.0, 20.0)), "clip_norm": 0.25}
    return layers, "ce_flat", optimizer, data, _like(epochs=16, batch_size=20, metric="tag_accuracy", reached=0.78)


def _super_resolution(draw: Draw) -> Any:
    layers = [_conv(16, "relu", 5), _conv(16), _conv(8), _conv(1, None)]
    data = {"generator": "blots", "settings": {"noise": 0.2}, "scaling": "raw", "label_encoding": "values"}
    return layers, "mse", _adam(0.002), data, _like(epochs=14, batch_size=8, metric="r2", reached=0.88)


def _variational(draw: Draw) -> Any:
    """The loss is summed over the batch."""
    layers = [
        {"type": "encoder", "layers": [dense(48, "relu"), dense(8)]},
        {"type": "decoder", "layers": [dense(48, "relu"), dense(20, "sigmoid")], "summed": True},
    ]
    data = {"generator": "manifold", "scaling": "raw", "label_encoding": "values", "targets": "inputs"}
    return layers, "composite", _adam(0.002), data, _like(epochs=30, metric="r2", reached=0.6)


def _siamese(draw: Draw) -> Any:
    layers = [{"type": "twins", "layers": [dense(48, "relu"), _drop(0.1), dense(48, "relu"), dense(8)]}]
    data = {"generator": "pairs", "scaling": "raw", "label_encoding": "float_flat"}
    optimizer = {"name": "rmsprop", "lr": 0.001}
    return layers, "contrastive", optimizer, data, _like(epochs=12, metric="pair_accuracy", reached=0.93)


def _actor_critic(draw: Draw) -> Any:
    layers = [
        {"type": "policy", "layers": [dense(32, "relu"), dense(3)]},
        {"type": "critic", "layers": [dense(32, "relu"), dense(1)]},
    ]
    data = {
        "generator": "groups",
        "settings": {"classes": 3, "columns": 4},
        "scaling": "raw",
        "label_encoding": "index",
    }
    return layers, "composite", _adam(0.005), data, _like(epochs=30, batch_size=32, reached=0.95)


def _adversarial(draw: Draw) -> Any:
    layers = [
        {"type": "generator", "layers": [dense(48, "leaky_relu"), dense(48, "leaky_relu"), dense(2)]},
        {"type": "discriminator", "layers": [dense(48, "leaky_relu"), dense(48, "leaky_relu"), dense(1)]},
    ]
    optimizer = {"name": "adam", "lr": 0.0005, "beta_1": 0.5}
    data = {"generator": "ring", "scaling": "raw", "label_encoding": "values"}
    return layers, "composite", optimizer, data, _like(epochs=120, batch_size=64, metric="sample_quality")


def _regression(draw: Draw) -> Any:
    data = {"generator": "line", "settings": {"columns": 2}, "scaling": "standard", "target_scaling": "standard"}
    data |= {"label_encoding": "float"}
    return [dense(1)], "huber", {"name": "sgd", "lr": 0.1}, data, _like(metric="r2", reached=0.99)


def _classifier(draw: Draw) -> Any:
    """Batches of four at a low rate."""
    layers = [_conv(6, "relu", 5), _pool(), _conv(16, "relu", 5), _pool(), FLAT, dense(60, "relu"), dense(42, "relu")]
    optimizer = {"name": "sgd", "lr": 0.004, "momentum": 0.9}
    return [*layers, dense(4)], "ce_logits", optimizer, SHAPES, _like(epochs=11, batch_size=4, reached=0.88)


def _polynomial(draw: Draw) -> Any:
    """A cubic fitted to a sine by full batches at a rate of 1e-5 for the summed error."""
    data = {"generator": "polynomial", "scaling": "raw", "label_encoding": "float"}
    optimizer = {"name": "sgd", "lr": 1e-5}
    return [dense(1)], "mse_sum", optimizer, data, _like(epochs=1200, batch_size=2000, metric="r2", reached=0.95)


def _logistic(draw: Draw) -> Any:
    data = {"generator": "digits", "scaling": "minmax", "label_encoding": "index"}
    return [dense(10)], "ce_logits", {"name": "sgd", "lr": 0.5}, data, _like(epochs=10, batch_size=64, reached=0.94)


def _convnet(draw: Draw) -> Any:
    layers = [_conv(32), _pool(), _conv(64), _pool(), FLAT, _drop(0.5), dense(10, "softmax")]
    return layers, "cce", _adam(), {**DIGITS, "label_encoding": "onehot"}, _like(epochs=12, batch_size=64, reached=0.96)


def _beginner(draw: Draw) -> Any:
    layers = [FLAT, dense(128, "relu"), _drop(0.2), dense(10)]
    return layers, "ce_logits", _adam(), DIGITS, _like(epochs=12, reached=0.96)


def _small_resnet(draw: Draw) -> Any:
    norm = {"type": "batchnorm"}
    block = {
        "type": "residual",
        "layers": [_conv(12, None), norm, {"type": "activation", "fn": "relu"}, _conv(12, None)],
    }
    layers = [_conv(12, None), norm, {"type": "activation", "fn": "relu"}, block, _pool(), block, _pool(), FLAT]
    return [*layers, dense(4, "softmax")], "scce", _adam(0.002), SHAPES, _like(epochs=8, reached=0.9)


def _bidirectional_lstm(draw: Draw) -> Any:
    lstm = {"type": "lstm", "units": 24, "bidirectional": True}
    layers = [_embed(VOCABULARY, 32), {**lstm, "return_sequences": True}, lstm, dense(1, "sigmoid")]
    return layers, "bce", _adam(0.002), REVIEWS, _like(epochs=6, reached=0.95)


def _text_transformer(draw: Draw) -> Any:
    layers = [
        _embed(VOCABULARY, 32),
        *transformer(draw, 32),
        {"type": "mean"},
        _drop(0.1),
        dense(20, "relu"),
        _drop(0.1),
    ]
    data = {**REVIEWS, "label_encoding": "index"}
    return [*layers, dense(2, "softmax")], "scce", _adam(0.002), data, _like(epochs=8, reached=0.95)


def _bag_of_words(draw: Draw) -> Any:
    data = {"generator": "topics", "settings": {"classes": 4}, "scaling": "raw", "label_encoding": "onehot"}
    layers = [dense(64, "relu"), dense(64, "relu"), dense(4, "softmax")]
    return layers, "cce", {"name": "rmsprop", "lr": 0.001}, data, _like(epochs=9, reached=0.85)


def _structured(draw: Draw) -> Any:
    layers = [dense(32, "relu"), _drop(0.5), dense(1, "sigmoid")]
    data = {"generator": "customers", "scaling": "standard", "label_encoding": "binary"}
    return layers, "bce", _adam(), data, _like(epochs=40, reached=0.88)


def _imbalanced(draw: Draw) -> Any:
    block = [dense(64, "relu"), _drop(0.3)]
    data = {"generator": "customers", "settings": {"imbalance": 0.1}, "scaling": "standard", "label_encoding": "binary"}
    return (
        [*block, *block, dense(1, "sigmoid")],
        "bce",
        _adam(0.005),
        data,
        _like(epochs=20, batch_size=64, reached=0.95),
    )


def _housing(draw: Draw) -> Any:
    """Targets in thousands of dollars, unscaled."""
    layers = [dense(64, "relu"), dense(64, "relu"), dense(1)]
    data = {"generator": "surface", "settings": {"scale": 9.0}, "scaling": "standard", "label_encoding": "float"}
    optimizer = {"name": "rmsprop", "lr": 0.001}
    return layers, "mse", optimizer, data, _like(epochs=60, batch_size=16, metric="r2", reached=0.8)


def _mileage(draw: Draw) -> Any:
    """The mean absolute error of unscaled targets around 20."""
    layers = [dense(64, "relu"), dense(64, "relu"), dense(1)]
    data = {"generator": "surface", "settings": {"scale": 8.0, "columns": 4}, "scaling": "standard"}
    return layers, "mae", _adam(), {**data, "label_encoding": "float"}, _like(epochs=80, metric="r2", reached=0.85)


def _weather(draw: Draw) -> Any:
    data = {"generator": "forecast", "scaling": "standard", "target_scaling": "standard", "label_encoding": "float"}
    return (
        [{"type": "lstm", "units": 32}, dense(1)],
        "mse",
        _adam(0.003),
        data,
        _like(epochs=15, metric="r2", reached=0.88),
    )


def _signal_classifier(draw: Draw) -> Any:
    conv = {"type": "conv1d", "filters": 24, "kernel": 3, "padding": "same"}
    block = [conv, {"type": "batchnorm"}, {"type": "activation", "fn": "relu"}]
    data = {"generator": "waves", "scaling": "raw", "label_encoding": "index"}
    layers = [*block, *block, *block, FLAT, dense(2, "softmax")]
    return layers, "scce", _adam(), data, _like(epochs=6, reached=0.97)


def _autoencoder(draw: Draw) -> Any:
    data = {"generator": "manifold", "settings": {"columns": 32}, "scaling": "raw", "label_encoding": "values"}
    layers = [dense(8, "relu"), dense(32, "sigmoid")]
    return layers, "bce", _adam(0.003), {**data, "targets": "inputs"}, _like(epochs=50, metric="r2", reached=0.75)


def _denoising_autoencoder(draw: Draw) -> Any:
    data = {"generator": "blots", "scaling": "raw", "label_encoding": "values"}
    layers = [_conv(16), _conv(16), _conv(1, "sigmoid")]
    return layers, "bce", _adam(0.003), data, _like(epochs=12, batch_size=16, metric="r2", reached=0.85)


def _addition(draw: Draw) -> Any:
    lstm = {"type": "lstm", "units": 32, "return_sequences": True, "bidirectional": True}
    data = {"generator": "reversal", "scaling": "tokens", "label_encoding": "onehot"}
    layers = [_embed(8, 24), lstm, lstm, dense(8, "softmax")]
    return layers, "cce", _adam(0.01), data, _like(epochs=14, metric="tag_accuracy", reached=0.93)


def _miniature_gpt(draw: Draw) -> Any:
    layers = [_embed(14, 32), *transformer(draw, 32, causal=True, blocks=2), dense(14)]
    data = {"generator": "grammar", "scaling": "tokens", "label_encoding": "index"}
    return layers, "ce_logits", _adam(0.003), data, _like(epochs=16, metric="tag_accuracy", reached=0.78)


_PYTORCH: Mapping[str, Example] = {
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
_KERAS: Mapping[str, Example] = {
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
_TUTORIALS: Mapping[str, Example] = {
    "classifier": _classifier,
    "polynomial": _polynomial,
    "logistic": _logistic,
    "beginner": _beginner,
    "small_resnet": _small_resnet,
    "bag_of_words": _bag_of_words,
    "housing": _housing,
    "mileage": _mileage,
}


def _family(examples: Mapping[str, Example]) -> Family:
    def recipe(kind: str, draw: Draw) -> tuple[Row, Row]:
        layers, loss, optimizer, data, options = examples[kind](draw)
        reached = options.pop("reached")
        return training(draw, layers, loss, optimizer, data, **options), {"task": "example", "reached": reached}

    return Family(recipe, tuple(examples), reserved=True)


EXAMPLES: Mapping[str, Family] = {
    "examples_pytorch": _family(_PYTORCH),
    "examples_keras": _family(_KERAS),
    "tutorials": _family(_TUTORIALS),
}
"""Examples by the project or kind that they come from."""
