"""`reproduce`: load the artefacts of the published AUTOTRAINER, repair the training, and save the result."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.demo.mnist import read_mnist
from autotrainer.demo.unpickle import load_plain
from autotrainer.demo.untrusted import MAX_BYTES, brief, plain
from autotrainer.edits import (
    OPTIMIZERS,
    ClipGradients,
    Edit,
    SetBatchSize,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SetWeightDecay,
    SwapOptimizer,
)
from autotrainer.edits.base import shorten
from autotrainer.errors import AutotrainerError, ConfigError, DataError, InputError, nearest
from autotrainer.records.untrusted_files import read_regular, unique_keys
from autotrainer.reporting.files import write_atomic
from autotrainer.reporting.result import Result

__all__ = ["Configuration", "load_data", "read_config", "repaired_config", "reproduce"]

BUILTIN_MODEL = "builtin:improper_activation_blob"
"""The one published demo model that is code rather than a file."""

Arrays = NDArray[Any]
Split = tuple[tuple[Arrays, Arrays], tuple[Arrays, Arrays]]

_KEYS = ("dataset", "loss", "optimizer", "epoch", "batchsize")
_DATASETS = ("simplednn_circle", "simplednn_blob", "mnist")
_MAX_EPOCHS = 1_000_000
_MAX_BATCH = 1_000_000
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Configuration:
    """A training configuration of AUTOTRAINER.

    Attributes:
        values: All keys and values as read.
        dataset: ``simplednn_circle``, ``simplednn_blob`` or ``mnist``.
        loss: Keras loss: name or serialized form.
        optimizer: Name of a Keras optimizer.
        opt_kwargs: Its arguments, by their Keras 2 names.
        epochs: Number of epochs, in [1, 1,000,000].
        batch_size: Samples per batch, in [1, 1,000,000].
    """

    values: Mapping[str, Any]
    dataset: str
    loss: Any
    optimizer: str
    opt_kwargs: Mapping[str, Any]
    epochs: int
    batch_size: int

    @classmethod
    def from_values(cls, values: Any, source: str) -> Self:
        """Check the values of a configuration.

        Args:
            values: What the file contains.
            source: Name of the file, for messages.

        Raises:
            ConfigError: If a key is missing or a value is invalid.
        """
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ConfigError(f"{source} must contain a dict with the keys {', '.join(_KEYS)}")
        missing = [key for key in _KEYS if key not in values]
        if missing:
            raise ConfigError(f"{source} lacks {missing[0]!r}: it must have the keys {', '.join(_KEYS)}")
        for key, most in (("epoch", _MAX_EPOCHS), ("batchsize", _MAX_BATCH)):
            if isinstance(values[key], bool) or not isinstance(values[key], int) or not 1 <= values[key] <= most:
                raise ConfigError(f"{source}: {key} must be an integer in [1, {most}], not {shorten(values[key])}")
        arguments = {} if values.get("opt_kwargs") is None else values["opt_kwargs"]
        if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
            raise ConfigError(f"{source}: opt_kwargs must be a dict by name, not {shorten(arguments)}")
        if not isinstance(values["optimizer"], str):
            raise ConfigError(f"{source}: optimizer must be a name, not {shorten(values['optimizer'])}")
        if values["dataset"] not in _DATASETS:
            hint = nearest(str(values["dataset"])[:_MAX_NAME], _DATASETS)
            raise ConfigError(f"{source}: unknown dataset {shorten(values['dataset'])}: {hint}")
        return cls(
            values,
            values["dataset"],
            values["loss"],
            values["optimizer"],
            arguments,
            values["epoch"],
            values["batchsize"],
        )


def read_config(path: str | Path) -> Configuration:
    """Read a configuration from ``.json``, or from ``.pkl`` without running any code in it.

    Raises:
        ConfigError: If it can't be read, contains more than plain values, or is incomplete.
    """
    path = Path(path)
    if path.suffix in (".pkl", ".pickle"):
        return Configuration.from_values(load_plain(path), str(path))
    if path.suffix != ".json":
        raise ConfigError(f"{path} is not a configuration: give a .pkl or .json file")
    try:
        values = plain(json.loads(read_regular(path, MAX_BYTES).decode("utf-8"), object_pairs_hook=unique_keys))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"can't read the configuration {path}: {brief(error)}") from error
    return Configuration.from_values(values, str(path))


def load_data(dataset: str, folder: str | Path | None = None) -> Split:
    """Load one of the data sets.

    Args:
        dataset: ``simplednn_circle``, ``simplednn_blob`` (embedded) or ``mnist``.
        folder: For MNIST, the folder of the IDX files (gzipped or not), or of a folder ``mnist`` with them; None for
            the environment variable ``AUTOTRAINER_DATA``.

    Returns:
        Training and validation data, each (inputs, class indices). MNIST images have shape (rows, 28, 28), values in
        [0, 1].

    Raises:
        DataError: If files are missing or damaged.
    """
    if dataset != "mnist":
        from autotrainer.demo.data import load

        parts = load(dataset.removeprefix("simplednn_"))
        return parts.train, parts.validation
    folder = folder or os.environ.get("AUTOTRAINER_DATA")
    if not folder:
        raise DataError("MNIST is not embedded: give --data DIR with its four IDX files, or set AUTOTRAINER_DATA")
    return read_mnist(Path(folder))


def _shaped(data: tuple[Arrays, Arrays], model: Any, loss: Any, classes: int) -> tuple[Arrays, Arrays]:
    """Reshape inputs and encode class indices as model and loss expect them."""
    inputs, labels = data
    width = tuple(model.input_shape[1:])
    if None in width or math.prod(inputs.shape[1:]) != math.prod(width):
        raise DataError(
            f"the model takes inputs of shape {width}, but the data set has {inputs.shape[1:]}: check the dataset in "
            "--config"
        )
    inputs = inputs.reshape(len(inputs), *width)
    units = model.output_shape[-1]
    if len(model.output_shape) != 2 or not units:
        raise DataError(f"the model has outputs of shape {model.output_shape[1:]}: it must have one row of classes")
    if "sparse" in str(loss).lower():
        return inputs, labels
    if units == 1:
        return inputs, labels.astype(np.float32)[:, None]
    if units < classes:
        raise DataError(
            f"the model has {units} outputs, but the data set has {classes} classes: check the dataset in --config"
        )
    return inputs, np.eye(units, dtype=np.float32)[labels]


def reproduce(
    model: str | Path,
    config: Configuration,
    out: str | Path,
    data: str | Path | None = None,
    budget: float | None = None,
) -> Result:
    """Run and repair a training of the published AUTOTRAINER.

    Args:
        model: ``.h5`` (Keras 2 or 3) or ``.keras`` file, or `BUILTIN_MODEL`.
        config: Its configuration.
        out: Folder for the files of `Result.save` (``model.keras``, report, plan) and for ``config.json``.
        data: Folder of the MNIST files.
        budget: Budget in trainings of the original model; None for the default of `autotrainer.fit`.

    Returns:
        The result of `autotrainer.fit`.

    Raises:
        InputError: If an argument can't be used.
        ImportError: If Keras is not installed.
    """
    from autotrainer.api.fit import fit
    from autotrainer.demo import published_models

    network = (
        published_models.improper_activation_blob()
        if str(model) == BUILTIN_MODEL
        else published_models.load_model(model)
    )
    loss = published_models.read_loss(config.loss)
    optimizer = published_models.build_optimizer(config.optimizer, config.opt_kwargs)
    train, validation = load_data(config.dataset, data)
    published_models.check_batch(network, min(config.batch_size, len(train[0])))
    classes = int(max(train[1].max(), validation[1].max())) + 1
    train, validation = (_shaped(rows, network, config.loss, classes) for rows in (train, validation))
    _make_folder(out)
    try:
        result = fit(
            network, train, validation, loss=loss, optimizer=optimizer, epochs=config.epochs,
            batch_size=config.batch_size, budget=budget,
        )  # fmt: skip
        result.save(out)
    except AutotrainerError:
        raise
    except Exception as error:  # model, data and settings all come from the files
        raise InputError(f"the training of {model} with these settings fails: {brief(error)}") from error
    edits = () if result.plan is None else result.plan.edits
    write_atomic(Path(out) / "config.json", json.dumps(repaired_config(config, edits), indent=2) + "\n")
    return result


def _make_folder(path: str | Path) -> None:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"can't write to the folder {path} ({brief(error)}): give another one with --out") from error


def repaired_config(config: Configuration, edits: tuple[Edit, ...]) -> dict[str, Any]:
    """Return the configuration with the settings of a repair, under its original keys.

    Other changes (layers, normalization, scaling) are in the repaired model.
    """
    values = {**config.values, "opt_kwargs": dict(config.opt_kwargs)}
    arguments = values["opt_kwargs"]
    for edit in edits:
        match edit:
            case SwapOptimizer():
                values["optimizer"] = OPTIMIZERS[edit.name]
                values["opt_kwargs"] = arguments = {"lr": edit.learning_rate}
                if edit.momentum:
                    arguments["momentum"] = edit.momentum
                if edit.weight_decay:
                    arguments["weight_decay"] = edit.weight_decay
            case SetLearningRate():
                arguments.pop("learning_rate", None)
                arguments["lr"] = edit.value
            case SetMomentum():
                arguments["momentum"] = edit.value
            case SetWeightDecay():
                arguments["weight_decay"] = edit.value
            case ClipGradients():
                arguments["clipvalue" if edit.kind == "value" else "global_clipnorm"] = edit.limit
            case SetBatchSize():
                values["batchsize"] = edit.size
            case SetLoss():
                values["loss"] = _keras_loss(edit, config)
            case _:
                pass
    return values


def _keras_loss(edit: SetLoss, config: Configuration) -> Any:
    """Return the name of a Keras loss, or its serialized form if it takes logits."""
    sparse = "sparse_" if "sparse" in str(config.loss).lower() else ""
    name = {
        "cross_entropy": f"{sparse}categorical_crossentropy",
        "binary_cross_entropy": "binary_crossentropy",
        "squared_error": "mean_squared_error",
        "absolute_error": "mean_absolute_error",
    }.get(edit.name, edit.name)
    if edit.expects == "logits" and name.endswith("crossentropy"):
        class_name = "".join(part.capitalize() for part in name.split("_"))
        return {"class_name": class_name, "config": {"from_logits": True}}
    return name
