"""Models, optimizers and losses of the published AUTOTRAINER, which used Keras 2, loaded in Keras 3."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras

from autotrainer.demo.model_file import check_model_file
from autotrainer.demo.untrusted import brief
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, InputError, nearest

__all__ = ["build_optimizer", "check_batch", "improper_activation_blob", "load_model", "read_loss"]

_OPTIMIZERS = ("SGD", "Adam", "AdamW", "Nadam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Ftrl", "Lion")
_KERAS_2_NAMES = {"lr": "learning_rate"}
_WITHOUT_EFFECT = ("schedule_decay", "name")
"""Arguments with little or no effect on the training; the first has no equivalent in Keras 3."""

_NOT_NEGATIVE = ("learning_rate", "decay", "clipnorm", "clipvalue", "global_clipnorm", "weight_decay", "epsilon")
_MAX_NAME = 60
_MAX_VALUES = 2**32


def load_model(path: str | Path) -> Any:
    """Load a model with its weights, uncompiled and callable.

    Args:
        path: ``.h5`` of Keras 2 or 3, or ``.keras``. Layers that contain code or read files are refused, and links to
            other files.

    Returns:
        A `keras.Model`.

    Raises:
        InputError: If it can't be loaded.
    """
    path = Path(path)
    if path.suffix not in (".h5", ".keras"):
        raise InputError(f"{path} is not a model file: give a .h5 or .keras file")
    if not os.path.isfile(path):  # unlike Path.is_file, raises nothing for a name that can't exist
        raise InputError(f"there is no model file {path}: give a .h5 or .keras file")
    try:
        config, stored = check_model_file(path)
        shape = _sequential_input(config) if path.suffix == ".h5" else None
        _check_weights(path, config, stored)
        model = _load(path)
        if shape is not None:  # Keras 3 loads such a model without an input, so that it can't be called
            model = keras.Sequential([keras.Input(shape), *model.layers], name=model.name)
        elif path.suffix == ".h5" and len(model.inputs) == len(model.outputs) == 1:
            # Keras 2 wrote a list of one input, for which Keras 3 warns at every call
            model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
        if not isinstance(model.input_shape, tuple) or not isinstance(model.output_shape, tuple):
            raise InputError("the model must have one input and one output of known shape")
    except InputError as error:
        raise InputError(f"{path} can't be used as a model: {error}") from error
    except Exception as error:
        raise InputError(f"Keras can't load {path}: {brief(error)}; save the model again as .keras") from error
    return model


def _load(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about layer arguments of Keras 2
        return keras.models.load_model(path, compile=False, safe_mode=True)


def _check_weights(path: Path, config: Mapping[str, Any], stored: int) -> None:
    """Build a model without memory for its weights, and check that the file stores as many values.

    Raises:
        InputError: If the model has more weights.
    """

    def count() -> int:
        with keras.StatelessScope(initialize_variables=False):
            model = _load(path) if path.suffix == ".h5" else keras.saving.deserialize_keras_object(config)
            return int(model.count_params()) if model.built else 0

    with ThreadPoolExecutor(1) as pool:  # Keras would initialize the variables later in the same thread
        weights = pool.submit(count).result()
    if weights > stored:
        raise InputError(f"the model has {weights:,} weights, but the file stores {stored:,} values")


def _sequential_input(config: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """Return the input shape of a Sequential model without the batch axis; None for other models.

    Raises:
        InputError: If it has none.
    """
    inner = config["config"]
    layers = inner.get("layers", []) if isinstance(inner, Mapping) else inner
    if config.get("class_name") != "Sequential" or not layers:
        return None
    first = layers[0]["config"]
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    if shape is None:
        raise InputError("the first layer has no input shape: build the model before saving it")
    return tuple(shape[1:])


def check_batch(model: Any, rows: int) -> None:
    """Check that a batch fits in memory.

    Args:
        model: The model.
        rows: Number of rows in a batch.

    Raises:
        InputError: If the outputs of all layers have more than four billion values.
    """
    operations: list[Any] = [model]
    values = 0
    while operations:
        operation = operations.pop()
        operations += getattr(operation, "operations", None) or getattr(operation, "layers", [])
        for node in operation._inbound_nodes:
            for output in keras.tree.flatten(node.output_tensors):
                values += math.prod(rows if length is None else length for length in output.shape)
    if values > _MAX_VALUES:
        raise InputError(f"the layers of the model have {values:,} outputs for a batch of {rows} rows: too many")


def build_optimizer(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build an optimizer from its Keras 2 name and arguments.

    ``lr`` becomes ``learning_rate``; ``decay`` becomes the equivalent schedule, lr / (1 + decay × step).

    Args:
        name: Such as ``Adam`` or ``SGD``, in any case.
        arguments: Its arguments; those that are None are ignored.

    Raises:
        ConfigError: If the name or an argument is unknown, or a value does not fit.
    """
    classes = {class_name.lower(): getattr(keras.optimizers, class_name) for class_name in _OPTIMIZERS}
    if str(name).lower() not in classes:
        raise ConfigError(f"unknown optimizer {shorten(name)}: {nearest(str(name)[:_MAX_NAME], _OPTIMIZERS)}")
    kwargs = {_KERAS_2_NAMES.get(k, k): v for k, v in arguments.items() if v is not None and k not in _WITHOUT_EFFECT}
    cls = classes[str(name).lower()]
    defaults = {"clipnorm": None, "clipvalue": None, "decay": 0.0, **cls().get_config()}
    for argument, value in kwargs.items():
        if argument not in defaults:
            hint = nearest(argument[:_MAX_NAME], defaults)
            raise ConfigError(f"opt_kwargs: {name} has no argument {shorten(argument)}: {hint}")
        _check_argument(argument, value, flag=isinstance(defaults[argument], bool))
    decay = kwargs.pop("decay", 0.0)
    try:
        if decay:
            rate = kwargs.get("learning_rate", defaults["learning_rate"])
            kwargs["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(float(rate), 1, float(decay))
        return cls(**kwargs)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"opt_kwargs do not fit {name}: {brief(error)}") from error


def _check_argument(name: str, value: Any, *, flag: bool) -> None:
    """Check an argument of an optimizer, which Keras uses as it is until a step of the training fails.

    Raises:
        ConfigError: If it is not a boolean or a finite number, whichever it has to be.
    """
    if flag:
        if not isinstance(value, bool):
            raise ConfigError(f"opt_kwargs: {name} must be true or false, not {shorten(value)}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"opt_kwargs: {name} must be a finite number, not {shorten(value)}")
    elif name in _NOT_NEGATIVE and value < 0:
        raise ConfigError(f"opt_kwargs: {name} must not be negative, but is {shorten(value)}")


def read_loss(loss: Any) -> Any:
    """Return a Keras loss from its name or serialized form; a name stays a name.

    Raises:
        ConfigError: If Keras does not know it.
    """
    name, config = loss, None
    if isinstance(loss, Mapping):
        name, config = loss.get("class_name"), loss.get("config")
        if name == "function":
            name, config = config, None
    try:
        if not isinstance(name, str) or name == "Loss" or keras.losses.get(name) is None:
            raise ValueError("not a name")
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"unknown loss {shorten(loss)}: give a Keras name, such as categorical_crossentropy"
        ) from error
    if not config:
        return name
    if not isinstance(config, Mapping) or any(isinstance(value, Mapping | list | tuple) for value in config.values()):
        raise ConfigError(f"the loss {name} must have a config of numbers and strings, not {shorten(config)}")
    try:
        arguments = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
        return keras.losses.get({"class_name": name, "config": arguments})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the config of the loss {name} does not fit: {brief(error)}") from error


def improper_activation_blob() -> Any:
    """Build the model that the published demo builds in code: its output has ReLU instead of softmax."""
    return keras.Sequential(
        [
            keras.Input((2,)),
            *(
                keras.layers.Dense(50, activation="relu", kernel_initializer=keras.initializers.HeUniform(seed))
                for seed in range(4)
            ),
            keras.layers.Dense(3, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(4)),
        ]
    )
