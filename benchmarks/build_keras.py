"""Builds and trains the programs of the cases in Keras 3, written as a user would write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from benchmarks.cases import Program
from benchmarks.datasets import Arrays
from benchmarks.scoring import score

__all__ = ["build", "compiled", "fit_arguments", "make_loss", "make_optimizer", "predict"]
__all__ += ["step_counter", "to_inputs", "train"]


class SummedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """Cross-entropy written out, with neither a clip nor a mean: ``-sum(y * log(p))``."""

    def __init__(self, name: str = "summed_cross_entropy", **kwargs: Any) -> None:
        super().__init__(name=name, reduction="sum")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return one value a row."""
        return -ops.sum(y_true * ops.log(y_pred), axis=-1)


_LOSSES: Mapping[str, Callable[[], Any]] = {
    "bce": lambda: "binary_crossentropy",
    "bce_clipped": lambda: "binary_crossentropy",
    "bce_logits": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    "cce": lambda: "categorical_crossentropy",
    "cce_noclip_sum": SummedCrossEntropy,
    "ce_logits": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "mse": lambda: "mean_squared_error",
    "mse_sum": lambda: keras.losses.MeanSquaredError(reduction="sum"),
    "scce": lambda: "sparse_categorical_crossentropy",
}


def make_loss(program: Program) -> Any:
    """Return the loss of a program: a name where Keras has one."""
    return _LOSSES[program.loss]()


def build(program: Program, input_shape: tuple[int, ...]) -> keras.Sequential:
    """Build the model with freshly drawn weights.

    Args:
        program: The recipe.
        input_shape: Shape of one input, channels last.
    """
    return keras.Sequential(
        [keras.Input(input_shape), *(_layer(layer, program.default_init) for layer in program.layers)]
    )


def make_optimizer(program: Program) -> keras.optimizers.Optimizer:
    """Return the optimizer of a program."""
    spec = {name: value for name, value in program.optimizer.items() if name not in ("name", "lr")}
    made = {
        "adagrad": keras.optimizers.Adagrad,
        "adam": keras.optimizers.Adam,
        "nadam": keras.optimizers.Nadam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }[str(program.optimizer["name"])]
    return made(learning_rate=float(program.optimizer["lr"]), **spec)


def compiled(program: Program, input_shape: tuple[int, ...]) -> keras.Sequential:
    """Build and compile the model."""
    model = build(program, input_shape)
    metrics = [] if program.metric == "r2" else ["accuracy"]
    model.compile(optimizer=make_optimizer(program), loss=make_loss(program), metrics=metrics)
    return model


def predict(model: keras.Model, x: NDArray[Any]) -> NDArray[Any]:
    """Return raw outputs in evaluation mode."""
    return np.asarray(model.predict(x, verbose=0, batch_size=256))


def to_inputs(program: Program, x: NDArray[Any]) -> NDArray[Any]:
    """Return inputs as the model takes them: as they are."""
    return x


def fit_arguments(program: Program, train: tuple[Any, Any], held: tuple[Any, Any], seed: int) -> dict[str, Any]:
    """Return what `autotrainer.fit` is to be given besides the schedule.

    Args:
        program: The recipe.
        train: Inputs and targets to train on.
        held: Inputs and targets to validate on.
        seed: Seed of the weights.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    return {"model": compiled(program, train[0].shape[1:]), "train_data": train, "validation_data": held}


def step_counter(model: keras.Model, optimizer: object = None) -> Callable[[], int]:
    """Return a function that says how many steps the model's optimizer has taken."""
    return lambda: int(ops.convert_to_numpy(model.optimizer.iterations))


def train(program: Program, data: Arrays, seed: int, watch: Callable[..., Any]) -> tuple[float, Any]:
    """Train a program from scratch with ``fit``.

    Args:
        program: The recipe.
        data: Its data; the test part is also the validation data of each epoch's end.
        seed: Seed of weights and order.
        watch: Called as ``watch(model)``; gives a context manager.

    Returns:
        The test score and what the context manager gave.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
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
        )
    return score(program, predict(model, data.x_test), data.y_test), monitor


def _layer(layer: Mapping[str, Any], default_init: str) -> keras.layers.Layer:
    kind = str(layer["type"])
    if kind == "flatten":
        return layers.Flatten()
    if kind == "dropout":
        return layers.Dropout(layer["rate"])
    if kind == "activation":
        if layer["fn"] == "leaky_relu":
            return layers.LeakyReLU(negative_slope=layer.get("alpha", 0.01))
        return layers.Activation(layer["fn"])
    if kind == "batchnorm":
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)  # as PyTorch's
    if kind in ("maxpool1d", "maxpool2d"):
        return layers.MaxPooling1D(layer["size"]) if kind == "maxpool1d" else layers.MaxPooling2D(layer["size"])
    if kind == "lstm":
        lstm = layers.LSTM(layer["units"], return_sequences=layer.get("return_sequences", False))
        return layers.Bidirectional(lstm) if layer.get("bidirectional") else lstm
    common = {
        "activation": layer.get("activation"),
        "kernel_initializer": _initializer(layer.get("init") or default_init),
        "bias_initializer": _initializer(layer.get("bias_init", "zeros")),
    }
    if "bias_const" in layer:
        common["bias_initializer"] = keras.initializers.Constant(layer["bias_const"])
    if kind == "dense":
        return layers.Dense(layer["units"], **common)
    if kind in ("conv1d", "conv2d"):
        conv = layers.Conv1D if kind == "conv1d" else layers.Conv2D
        return conv(layer["filters"], layer["kernel"], padding=layer["padding"], **common)
    raise ValueError(f"unknown type of layer {kind!r}")


def _initializer(name: str) -> Any:
    own = {
        "framework": "glorot_uniform",
        "normal005": keras.initializers.RandomNormal(stddev=0.05),
        "uniform005": keras.initializers.RandomUniform(-0.05, 0.05),
    }
    return own.get(name, name)
