"""Models, optimizers and losses of the published AUTOTRAINER, which used Keras 2, loaded in Keras 3."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from autotrainer.errors import ConfigError, InputError, nearest

__all__ = ["build_optimizer", "improper_activation_blob", "load_model", "read_loss"]

_OPTIMIZERS = ("SGD", "Adam", "AdamW", "Nadam", "Adamax", "RMSprop", "Adagrad", "Adadelta", "Ftrl", "Lion")
_KERAS_2_NAMES = {"lr": "learning_rate"}
_KERAS_2_ONLY = ("schedule_decay",)
"""Arguments of Keras 2 that have no equivalent and little effect."""


def load_model(path: str | Path) -> Any:
    """Load a model with its weights, uncompiled and callable.

    Args:
        path: ``.h5`` of Keras 2 or 3, or ``.keras``. Lambda layers are refused because they contain code.

    Returns:
        A `keras.Model`.

    Raises:
        InputError: If it can't be loaded.
    """
    path = Path(path)
    if path.suffix not in (".h5", ".keras"):
        raise InputError(f"{path} is not a model file: give a .h5 or .keras file")
    if not path.is_file():
        raise InputError(f"there is no model file {path}: give a .h5 or .keras file")
    try:
        shape = _sequential_input(path) if path.suffix == ".h5" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about layer arguments of Keras 2
            model = keras.models.load_model(path, compile=False, safe_mode=True)
        if shape is not None:  # Keras 3 loads such a model without an input, so that it can't be called
            model = keras.Sequential([keras.Input(shape), *model.layers], name=model.name)
        elif path.suffix == ".h5" and len(model.inputs) == len(model.outputs) == 1:
            # Keras 2 wrote a list of one input, for which Keras 3 warns at every call
            model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
        if model.output_shape is None:
            raise ValueError("the output shape of the model is unknown")
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"Keras can't load {path}: {error}; save the model again as .keras") from error
    return model


def _sequential_input(path: Path) -> tuple[int | None, ...] | None:
    """Return the input shape of a Sequential model without the batch axis; None for other models."""
    import h5py

    with h5py.File(path, "r") as file:
        text = file.attrs.get("model_config")
    if text is None:
        raise InputError(f"{path} contains weights without a model: save the whole model with model.save()")
    config = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    inner = config.get("config", {})
    layers = inner.get("layers", []) if isinstance(inner, Mapping) else inner
    if any(layer.get("class_name") == "Lambda" for layer in layers):
        raise InputError(
            f"{path} has a Lambda layer, which is refused because it contains code: replace it by a layer class"
        )
    if config.get("class_name") != "Sequential" or not layers:
        return None
    first = layers[0]["config"]
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    if shape is None:
        raise InputError(f"{path}: the first layer has no input shape: build the model before saving it")
    return tuple(shape[1:])


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
        raise ConfigError(f"unknown optimizer {name!r}: {nearest(str(name), _OPTIMIZERS)}")
    kwargs = {_KERAS_2_NAMES.get(k, k): v for k, v in arguments.items() if v is not None and k not in _KERAS_2_ONLY}
    cls = classes[str(name).lower()]
    options = set(cls().get_config()) | {"clipnorm", "clipvalue", "learning_rate"}
    decay = kwargs.pop("decay", 0.0)
    for argument in kwargs:
        if argument not in options:
            raise ConfigError(f"opt_kwargs: {name} has no argument {argument!r}: {nearest(argument, options)}")
    try:
        if decay:
            rate = kwargs.get("learning_rate", cls().get_config()["learning_rate"])
            kwargs["learning_rate"] = keras.optimizers.schedules.InverseTimeDecay(float(rate), 1, float(decay))
        return cls(**kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"opt_kwargs do not fit {name}: {error}") from error


def read_loss(loss: Any) -> Any:
    """Return a Keras loss from its name or serialized form; a name stays a name.

    Raises:
        ConfigError: If Keras does not know it.
    """
    try:
        keras.losses.get(loss)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"unknown loss {loss!r}: give a Keras name, such as categorical_crossentropy") from error
    return loss if isinstance(loss, str) else keras.losses.get(loss)


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
