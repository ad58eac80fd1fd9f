"""Checks a model file before Keras reads it: it may contain only weights and layers of Keras, within bounds.

Keras follows links of an HDF5 file to other files, unpacks what a header announces, and builds layers that contain
code or read files. None of that reaches it from a file that passes.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import h5py
import keras

from autotrainer.edits.base import shorten
from autotrainer.errors import InputError

__all__ = ["check_model_file"]

_MAX_BYTES = 2**30
"""Maximum size of a file, and of its weights unpacked."""

_MAX_CONFIG = 2_000_000
_MAX_DEPTH = 60
_MAX_NAME = 255
_TENSORFLOW_NAME = re.compile(r"[A-Za-z0-9_./-]*")
_KERAS_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}

_LAYER_PACKAGES = (
    "activations", "attention", "convolutional", "core", "merging", "normalization", "pooling", "regularization",
    "reshaping", "rnn",
)  # fmt: skip
_PREPROCESSING = ("CategoryEncoding", "Normalization", "Rescaling")
"""Layers outside these packages that neither contain code nor read files."""

_OPERATIONS = "keras.src.ops."
"""Prefix of the modules of operations, such as the addition of two tensors."""

_STRUCTURES = {"Model", "Functional", "Sequential", "DTypePolicy", "__keras_tensor__", "__slice__", "__ellipsis__"}


def check_model_file(path: Path) -> tuple[dict[str, Any], int]:
    """Check a model file.

    Args:
        path: ``.h5`` or ``.keras``.

    Returns:
        The configuration of the model, without those of trainings, and the number of values in the arrays of the file.

    Raises:
        InputError: If it refers to other files, contains code, or exceeds a limit.
        Exception: Any error of the libraries that read a damaged file.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"it is larger than {_MAX_BYTES:,} bytes")
    if path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            values = _check_hdf5(file)
            text = file.attrs.get("model_config")
        if text is None:
            raise InputError("it contains weights without a model: save the whole model with model.save()")
    else:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if len(members) > len(_KERAS_MEMBERS) or set(members) != _KERAS_MEMBERS:
                raise InputError(f"it must contain exactly {', '.join(sorted(_KERAS_MEMBERS))}, not {shorten(members)}")
            text = _member(archive, "config.json", _MAX_CONFIG)
            with h5py.File(io.BytesIO(_member(archive, "model.weights.h5", _MAX_BYTES)), "r") as file:
                values = _check_hdf5(file)
    if len(text) > _MAX_CONFIG:
        raise InputError(f"the configuration of the model is longer than {_MAX_CONFIG:,} characters")
    config = json.loads(text)
    if not isinstance(config, dict):
        raise InputError("the configuration of the model is not a JSON object")
    config.pop("compile_config", None)
    classes, functions = _allowed_classes(), _allowed_functions()
    for part in list(_objects(config, 0)):
        _check_object(part, classes, functions)
        part.pop("compile_config", None)
    return config, values


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).file_size > limit:  # more than this is never unpacked
        raise InputError(f"{name} in it unpacks to more than {limit:,} bytes")
    return archive.read(name)


def _check_hdf5(file: h5py.File) -> int:
    """Check that a file contains only groups without cycles and arrays of numbers, all within the file itself.

    Returns:
        The number of values in the arrays.

    Raises:
        InputError: If it contains anything else, or more than a limit.
    """
    groups, visited, size, values = [file], set(), 0, 0
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in visited:
            raise InputError(f"its group {shorten(group.name)} is linked more than once")
        visited.add(address)
        _check_attributes(group)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise InputError(f"its entry {shorten(name)} is a link to another place, which is not followed")
            entry = group[name]
            if isinstance(entry, h5py.Group):
                groups.append(entry)
                continue
            if not isinstance(entry, h5py.Dataset) or entry.dtype.kind not in "biuf":
                raise InputError(f"its entry {shorten(name)} is not an array of numbers")
            if entry.external or entry.is_virtual:
                raise InputError(f"its array {shorten(name)} is stored in another file")
            values += math.prod(entry.shape or ())
            size += math.prod(entry.shape or ()) * entry.dtype.itemsize
            if size > _MAX_BYTES:
                raise InputError(f"its arrays unpack to more than {_MAX_BYTES:,} bytes")
    return values


def _check_attributes(group: h5py.Group) -> None:
    for name in group.attrs:
        attribute = group.attrs.get_id(name)
        if math.prod(attribute.shape or ()) * attribute.dtype.itemsize > _MAX_CONFIG:
            raise InputError(f"its attribute {shorten(name)} is larger than {_MAX_CONFIG:,} bytes")


def _objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Yield every JSON object inside a value.

    Raises:
        InputError: If it is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise InputError("the configuration of the model is nested too deeply")
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict | list):
                yield from _objects(entry, depth + 1)


def _check_object(config: Mapping[str, Any], classes: set[str], functions: set[str]) -> None:
    name, class_name, module = config.get("name", ""), config.get("class_name"), config.get("module")
    if isinstance(name, str) and (len(name) > _MAX_NAME or not name.isprintable()):
        raise InputError(f"the name {shorten(name)} in it is too long or contains control characters")
    if isinstance(name, str) and keras.backend.backend() == "tensorflow" and not _TENSORFLOW_NAME.fullmatch(name):
        raise InputError(f"the name {shorten(name)} in it has characters that TensorFlow refuses: rename the layer")
    if class_name is None:
        return
    if module not in (None, "builtins") and str(module).partition(".")[0] != "keras":
        raise InputError(f"it refers to the module {shorten(module)}, which is not part of Keras")
    if config.get("registered_name") not in (None, class_name, config.get("config")):
        raise InputError(f"it has the custom object {shorten(config['registered_name'])}: replace it by one of Keras")
    if class_name == "function":
        if config.get("config") not in functions:
            raise InputError(
                f"it has the function {shorten(config.get('config'))}, which is not an activation of Keras"
            )
    elif not isinstance(class_name, str) or not (class_name in classes or str(module).startswith(_OPERATIONS)):
        label = class_name if isinstance(class_name, str) and class_name.isidentifier() else shorten(class_name)
        raise InputError(
            f"it has a {label[:_MAX_NAME]} layer, which is refused because it is not a layer of Keras, contains code, "
            "or reads files: replace it by a standard layer"
        )


def _allowed_classes() -> set[str]:
    """Return the names of Keras classes that only compute."""
    modules = (keras.initializers, keras.regularizers, keras.constraints, keras.optimizers, keras.losses,
               keras.optimizers.schedules)  # fmt: skip
    names = _STRUCTURES.union(*(_public(module, type) for module in modules))
    for name in _public(keras.layers, type):
        package = getattr(keras.layers, name).__module__.removeprefix("keras.src.layers.").partition(".")[0]
        if package in _LAYER_PACKAGES or name in _PREPROCESSING:
            names.add(name)
    return names - {"Lambda"}


def _allowed_functions() -> set[str]:
    """Return the names of Keras functions that models and their losses may refer to."""
    names = _public(keras.activations, FunctionType) | _public(keras.losses, FunctionType)
    return names - {"get", "serialize", "deserialize"}


def _public(module: ModuleType, kind: type) -> set[str]:
    return {name for name, value in vars(module).items() if isinstance(value, kind)}
