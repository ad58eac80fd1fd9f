"""Builds and trains the programs of the cases in Keras 3, as a user would write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from benchmarks.cases.case import Program
from benchmarks.cases.scoring import CONTRASTIVE_MARGIN, score
from benchmarks.data.datasets import Arrays
from benchmarks.programs.keras3_layers import apply, make_layer
from benchmarks.programs.keras3_transformer_training import train_transformer

__all__ = ["build", "compiled", "fit_arguments", "make_loss", "make_optimizer", "predict"]
__all__ += ["step_counter", "to_inputs", "train"]


class SummedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """Cross-entropy written out, with neither a clip nor a mean: ``-sum(y * log(p))``."""

    def __init__(self, name: str = "summed_cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, reduction="sum")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per row."""
        return -ops.sum(y_true * ops.log(y_pred), axis=-1)


class LogSquaredError(keras.losses.Loss):  # type: ignore[misc]
    """Squared error of logarithms written out, without the usual ``log(1 + x)``: ``mean((log y - log p)²)``."""

    def __init__(self, name: str = "log_squared_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per row."""
        return ops.mean(ops.square(ops.log(y_true) - ops.log(y_pred)), axis=-1)


class UnclippedBinaryCrossentropy(keras.losses.Loss):  # type: ignore[misc]
    """Binary cross-entropy written out, without protection from the logarithm of zero."""

    def __init__(self, name: str = "unclipped_binary_crossentropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per row."""
        return -ops.mean(y_true * ops.log(y_pred) + (1 - y_true) * ops.log(1 - y_pred), axis=-1)


class ContrastiveLoss(keras.losses.Loss):  # type: ignore[misc]
    """Squared distance of equal pairs, squared shortfall from the margin of others; see `pytorch_losses`."""

    def __init__(self, name: str = "contrastive", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per pair; outputs have shape (rows, 2, units), targets (rows,)."""
        squares = ops.maximum(ops.sum(ops.square(y_pred[:, 0] - y_pred[:, 1]), axis=-1), 1e-12)
        shortfall = ops.maximum(CONTRASTIVE_MARGIN - ops.sqrt(squares), 0)
        equal = ops.reshape(y_true, (-1,))
        return equal * squares + (1 - equal) * ops.square(shortfall)


class MarginRankingLoss(keras.losses.Loss):  # type: ignore[misc]
    """Hinge on the difference of two scores: the better of a pair should score higher by 1."""

    def __init__(self, name: str = "margin_ranking", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per pair; outputs have shape (rows, 2, 1), targets (rows,)."""
        sign = 2 * ops.reshape(y_true, (-1,)) - 1
        return ops.maximum(1 - sign * (y_pred[:, 0, 0] - y_pred[:, 1, 0]), 0)


class LogisticRankingLoss(keras.losses.Loss):  # type: ignore[misc]
    """Binary cross-entropy on the difference of two scores."""

    def __init__(self, name: str = "logistic_ranking", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per pair; outputs have shape (rows, 2, 1), targets (rows,)."""
        sign = 2 * ops.reshape(y_true, (-1,)) - 1
        return ops.softplus(-sign * (y_pred[:, 0, 0] - y_pred[:, 1, 0]))


class PoissonLoss(keras.losses.Loss):  # type: ignore[misc]
    """Negative log-likelihood of counts, without its constant; outputs are logarithms of the expectation."""

    def __init__(self, name: str = "poisson_of_logs", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value per row."""
        return ops.mean(ops.exp(y_pred) - y_true * y_pred, axis=-1)


_LOSSES: Mapping[str, Callable[[], Any]] = {
    "bce": lambda: "binary_crossentropy",
    "bce_clipped": lambda: "binary_crossentropy",
    "bce_logits": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    "bce_noclip": UnclippedBinaryCrossentropy,
    "bce_sum": lambda: keras.losses.BinaryCrossentropy(reduction="sum"),
    "cce": lambda: "categorical_crossentropy",
    "cce_noclip_sum": SummedCrossEntropy,
    **dict.fromkeys(
        ("ce_flat", "ce_logits", "ce_transposed"),
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ),
    "contrastive": ContrastiveLoss,
    "huber": keras.losses.Huber,
    "logistic_rank": LogisticRankingLoss,
    "log_squares": LogSquaredError,
    "mae": lambda: "mean_absolute_error",
    "margin_rank": MarginRankingLoss,
    "mse": lambda: "mean_squared_error",
    "poisson": PoissonLoss,
    "mse_sum": lambda: keras.losses.MeanSquaredError(reduction="sum"),
    "scce": lambda: "sparse_categorical_crossentropy",
    "scce_sum": lambda: keras.losses.SparseCategoricalCrossentropy(reduction="sum"),
}


def make_loss(program: Program) -> Any:
    """Return the loss of a program: a name where Keras has one."""
    return _LOSSES[program.loss]()


def build(program: Program, input_shape: tuple[int, ...]) -> keras.Model:
    """Build the model with freshly drawn weights.

    Args:
        program: The recipe.
        input_shape: Shape of one input, channels last.

    Returns:
        A Sequential model; a Functional one where layers branch.
    """
    tokens = program.layers[0]["type"] == "embedding"
    inputs = keras.Input(input_shape, dtype="int32" if tokens else None)
    if any(layer["type"] in ("attention", "residual", "twins") for layer in program.layers):
        return keras.Model(inputs, apply(program.layers, inputs, program.default_init))
    return keras.Sequential([inputs, *(make_layer(layer, program.default_init) for layer in program.layers)])


def make_optimizer(program: Program) -> keras.optimizers.Optimizer:
    """Return the optimizer of a program."""
    spec = {name: value for name, value in program.optimizer.items() if name not in ("name", "lr", "schedule")}
    if "clip_norm" in spec:
        spec["global_clipnorm"] = spec.pop("clip_norm")
    factory = {
        "adadelta": keras.optimizers.Adadelta,
        "adagrad": keras.optimizers.Adagrad,
        "adam": keras.optimizers.Adam,
        "adamax": keras.optimizers.Adamax,
        "adamw": keras.optimizers.AdamW,
        "nadam": keras.optimizers.Nadam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }[str(program.optimizer["name"])]
    return factory(learning_rate=float(program.optimizer["lr"]), **spec)


def compiled(program: Program, input_shape: tuple[int, ...]) -> keras.Model:
    """Build and compile the model."""
    model = build(program, input_shape)
    metrics = ["accuracy"] if program.metric in ("accuracy", "binary_accuracy", "tag_accuracy") else []
    model.compile(optimizer=make_optimizer(program), loss=make_loss(program), metrics=metrics)
    return model


def predict(model: keras.Model, x: NDArray[Any]) -> NDArray[Any]:
    """Return raw outputs in evaluation mode."""
    return np.asarray(model.predict(x, verbose=0, batch_size=256))


def to_inputs(program: Program, x: NDArray[Any]) -> NDArray[Any]:
    """Return the model's inputs: unchanged."""
    return x


def fit_arguments(program: Program, train: tuple[Any, Any], validation: tuple[Any, Any], seed: int) -> dict[str, Any]:
    """Return the arguments of `autotrainer.fit` except the schedule.

    Args:
        program: The recipe.
        train: Inputs and targets to train on.
        validation: Inputs and targets to validate on.
        seed: Seed of the weights.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    arguments = {"model": compiled(program, train[0].shape[1:]), "train_data": train, "validation_data": validation}
    return {**arguments, "fit_args": {"shuffle": False}} if "shuffle" in program.loop else arguments


def _schedule(program: Program) -> list[keras.callbacks.Callback]:
    """Return the callback that changes the rate after each epoch as `pytorch.make_scheduler` does."""
    start, name = float(program.optimizer["lr"]), program.optimizer.get("schedule")
    rates = {
        "cosine": lambda epoch: start * 0.5 * (1 + math.cos(math.pi * epoch / program.epochs)),
        "exponential": lambda epoch: start * 0.9**epoch,
    }
    return [keras.callbacks.LearningRateScheduler(rates[name])] if name else []


def step_counter(model: keras.Model, optimizer: object = None) -> Callable[[], int]:
    """Return a function that counts the steps of the model's optimizer."""
    return lambda: int(ops.convert_to_numpy(model.optimizer.iterations))


def train(program: Program, data: Arrays, seed: int, watch: Callable[..., Any]) -> tuple[float, Any]:
    """Train a program from scratch with ``fit``.

    Args:
        program: The recipe.
        data: Its data; the test part is also the validation data.
        seed: Seed of weights and order.
        watch: Called as ``watch(model)``; returns a context manager.

    Returns:
        The test score and the value of the context manager.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    if program.layers[0]["type"] == "transformer":
        return train_transformer(program, data, seed, watch)
    model = compiled(program, data.x_train.shape[1:])
    with watch(model) as monitor:
        model.fit(
            data.x_train,
            data.y_train,
            batch_size=program.batch_size,
            epochs=program.epochs,
            validation_data=(data.x_test, data.y_test),
            validation_batch_size=512,
            verbose=0,
            callbacks=_schedule(program),
            shuffle=program.loop.get("shuffle", True),
        )
    return score(program, predict(model, data.x_test), data.y_test), monitor
