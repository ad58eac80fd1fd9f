"""Model files of unknown origin: refused in one line; nothing runs, no other file is read, no size is believed."""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from autotrainer.demo import model_file
from autotrainer.demo.published_models import check_batch, load_model
from autotrainer.errors import InputError

Json = dict[str, Any]
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same functional model as ``.h5`` and as ``.keras``."""
    folder = tmp_path_factory.mktemp("models")
    inputs = keras.Input((2,), name="in")
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="out")(hidden))
    for suffix in ("h5", "keras"):
        model.save(folder / f"model.{suffix}")
    return folder


def _changed_h5(models: Path, out: Path, change: Callable[[h5py.File], None]) -> Path:
    path = out / "model.h5"
    path.write_bytes((models / "model.h5").read_bytes())
    with h5py.File(path, "a") as file:
        change(file)
    return path


def _changed_keras(models: Path, out: Path, members: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(models / "model.keras") as archive:
        content: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    path = out / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**content, **members}.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def _config(models: Path, suffix: str) -> Json:
    if suffix == "h5":
        with h5py.File(models / "model.h5") as file:
            config: Json = json.loads(file.attrs["model_config"])
            return config
    with zipfile.ZipFile(models / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    return config


def _with_config(models: Path, out: Path, suffix: str, config: Any) -> Path:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    if suffix == "keras":
        return _changed_keras(models, out, {"config.json": text})

    def change(file: h5py.File) -> None:
        file.attrs["model_config"] = text

    return _changed_h5(models, out, change)


_EVENTS: list[str] = []
_ACTIVE: list[Path] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _ACTIVE and event in ("os.system", "subprocess.Popen", "socket.connect", "os.exec", "os.posix_spawn"):
        _EVENTS.append(event)
    if _ACTIVE and event == "open" and ("canary" in str(arguments[0]) or str(arguments[0]) == "/etc/passwd"):
        _EVENTS.append(f"open {arguments[0]}")


sys.addaudithook(_hook)


def _problems(path: Path) -> list[str]:
    """Return what is wrong with the refusal of a model: it runs, reads or writes something, or the message is bad."""
    before = {entry: entry.stat().st_mtime_ns for entry in path.parent.rglob("*")}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _EVENTS.clear()
    _ACTIVE.append(path)
    problems = []
    try:
        check_batch(load_model(path), 256)
        problems.append("loads")
    except InputError as error:
        message = str(error).replace(str(path), "")
        if not message.isprintable() or len(message) > 600:
            problems.append(f"has the message {message!r}")
    except Exception as error:  # noqa: BLE001 - reported by the caller with the name of the attack
        problems.append(f"raises {error!r:.200}")
    finally:
        _ACTIVE.clear()
    problems += _EVENTS
    if {entry: entry.stat().st_mtime_ns for entry in path.parent.rglob("*")} != before:
        problems.append("writes files")
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory > 2_000_000:  # kB
        problems.append("takes gigabytes")
    return problems


def test_unchanged_models_load(models: Path, tmp_path: Path) -> None:
    for path in models.iterdir():
        check_batch(load_model(path), 256)
    for suffix in ("h5", "keras"):
        load_model(_with_config(models, tmp_path, suffix, _config(models, suffix)))


def test_refused_models_leave_no_state_behind(models: Path, tmp_path: Path) -> None:
    config = _config(models, "keras")
    config["config"]["layers"][1]["config"]["units"] = 10**10
    config["config"]["layers"] = config["config"]["layers"][:2]
    config["config"]["output_layers"] = ["hidden", 0, 0]
    assert not _problems(_with_config(models, tmp_path, "keras", config))
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])  # would initialize variables that are left over
    assert not keras.src.backend.common.global_state.get_global_attribute("uninitialized_variables")


def test_models_of_many_layers_load(tmp_path: Path) -> None:
    layers = keras.layers
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2", kernel_constraint="max_norm")(inputs)
    x = layers.Add()(
        [layers.BatchNormalization()(x), layers.SeparableConv2D(4, 1, depthwise_initializer="he_normal")(x)]
    )
    x = layers.Dropout(0.2)(layers.MaxPooling2D()(layers.LeakyReLU()(x)))
    x = layers.Bidirectional(layers.LSTM(3))(layers.Reshape((13, 52))(x))
    x = keras.ops.concatenate([x * 2.0, keras.ops.relu(x[:, :2])], axis=-1)
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(4, activation=keras.activations.gelu), layers.ELU()])
    inner.compile("adam", "mse")
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.LayerNormalization()(inner(x))))
    model.compile("sgd", keras.losses.CategoricalCrossentropy(), metrics=["accuracy"])
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    rows = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    np.testing.assert_allclose(loaded(rows), model(rows), rtol=1e-5)


def test_batch_that_does_not_fit_is_refused() -> None:
    layers = [
        keras.Input((2,)),
        keras.layers.RepeatVector(10**9),
        keras.layers.GlobalMaxPooling1D(),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential(layers)
    shared = keras.layers.RepeatVector(10**9)
    inputs = keras.Input((2,))
    twice = keras.Model(
        inputs, keras.layers.Add()([keras.ops.max(shared(inputs), 1), keras.ops.max(shared(inputs), 1)])
    )
    for deep in (model, twice, keras.Sequential([keras.Input((2,)), model])):
        with pytest.raises(InputError, match="for a batch of 256 rows: too many"):
            check_batch(deep, 256)
    check_batch(keras.Sequential([keras.Input((2,)), keras.layers.Dense(9)]), 256)


# -- the configuration ----------------------------------------------------------------------------------------------


def _lambda(config: Json) -> Json:
    code = "4wEAAAAAAAAAAAAAAAEAAAACAAAAQwAAAHMEAAAAfABTACkBTqkAKQHaAXhyAQAAAHIBAAAA+gA="
    return {
        **config,
        "class_name": "Lambda",
        "config": {"name": "l", "function": [code, None, None], "function_type": "lambda"},
    }


def _layer(class_name: str, module: str | None = "keras.layers", **arguments: Any) -> Change:
    def change(layer: Json) -> Json:
        changed = {**layer, "class_name": class_name, "config": {"name": layer["config"]["name"], **arguments}}
        changed |= {"registered_name": None}
        changed.pop("build_config", None)
        if module is not None:
            changed["module"] = module
        return changed

    return change


def _setting(name: str, value: Any) -> Change:
    return lambda layer: {**layer, "config": {**layer["config"], name: value}}


_BAD_LAYERS: dict[str, Change] = {
    "lambda": _lambda,
    "marshalled lambda": _layer("Lambda", function={"class_name": "__lambda__", "config": {"value": "x"}}),
    "lambda in another module": _layer("Lambda", "keras.src.layers.core.lambda_layer", function="x"),
    "saved model": _layer("TFSMLayer", filepath="/tmp/canary"),
    "torch pickle": _layer("TorchModuleWrapper", module="UEsDBA=="),
    "jax": _layer("JaxLayer", call_fn="x"),
    "flax": _layer("FlaxLayer"),
    "vocabulary file": _layer("StringLookup", vocabulary="/etc/passwd"),
    "integer vocabulary file": _layer("IntegerLookup", vocabulary="/etc/passwd"),
    "text vocabulary file": _layer("TextVectorization", vocabulary="/etc/passwd"),
    "hashing": _layer("Hashing", num_bins=10),
    "mel": _layer("MelSpectrogram", fft_length=10**9),
    "os": _layer("system", "os"),
    "subprocess": _layer("Popen", "subprocess", args="false"),
    "module without a class": _layer("Dense", "os.path", units=1),
    "module of the current folder": _layer("Dense", "canary", units=1),
    "download": _layer("get_file", "keras.utils"),
    "private download": _layer("get_file", "keras.src.utils.file_utils"),
    "registered": lambda layer: {**layer, "registered_name": "package>Evil"},
    "registered function": lambda layer: {**layer, "registered_name": ["a"]},
    "custom": _layer("Evil", None),
    "custom with a module": _layer("Evil", "keras.layers"),
    "wrapper of a lambda": _layer("TimeDistributed", layer={"class_name": "Lambda", "config": {"function": "x"}}),
    "rnn of a custom cell": _layer("RNN", cell={"class_name": "Evil", "config": {}}),
    "function by class": _setting(
        "activation", {"class_name": "function", "config": "get_file", "module": "keras.utils"}
    ),
    "function of builtins": _setting("activation", {"class_name": "function", "config": "eval", "module": "builtins"}),
    "function of keras": _setting(
        "activation", {"class_name": "function", "config": "deserialize", "module": "builtins"}
    ),
    "lambda activation": _setting("activation", {"class_name": "__lambda__", "config": {"value": "x"}}),
    "unknown activation": _setting("activation", "os.system"),
    "activation of an object": _setting("activation", {"class_name": "object", "config": {}}),
    "initializer of a module": _setting("kernel_initializer", {"class_name": "Evil", "module": "os", "config": {}}),
    "initializer by name": _setting("kernel_initializer", "os.system"),
    "regularizer": _setting("kernel_regularizer", {"class_name": "Evil", "config": {}}),
    "typespec": _setting(
        "kernel_regularizer", {"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}
    ),
    "tensor": _setting("kernel_regularizer", {"class_name": "__tensor__", "config": {"value": 1, "dtype": "float32"}}),
    "array": _setting("kernel_regularizer", {"class_name": "__numpy__", "config": {"value": [1], "dtype": "O"}}),
    "dtype": _setting("dtype", {"class_name": "Evil", "config": {}}),
    "unknown dtype": _setting("dtype", "object"),
    "list as a class": lambda layer: {**layer, "class_name": ["Dense"]},
    "number as a class": lambda layer: {**layer, "class_name": 5},
    "no class": lambda layer: {key: value for key, value in layer.items() if key != "class_name"},
    "no config": lambda layer: {key: value for key, value in layer.items() if key != "config"},
    "list as a config": lambda layer: {**layer, "config": [1]},
    "layer is a number": lambda layer: 5,
    "layer is a text": lambda layer: "Dense",
    "compiled inside": lambda layer: {
        **layer,
        "compile_config": {"metrics": [{"class_name": "AUC", "config": {"num_thresholds": 10**9}}]},
    },
    "nested deeply": _setting("kernel_initializer", json.loads("[" * 500 + "]" * 500)),
    **{
        f"units {value!r:.30}": _setting("units", value)
        for value in (0, -1, 10**6, 10**10, 10**30, "a", None, 2.5, [4], {}, True)
    },
    **{
        f"name {value!r:.30}": _setting("name", value)
        for value in ("\x1b[31mred", "a\nb", "\x07", "\u202ename", "x" * 300, "a/b", "\ud800", "\0")
    },
    "huge initializer": _setting("kernel_initializer", {"class_name": "Constant", "config": {"value": "x"}}),
    "repeat": _layer("RepeatVector", n=10**9),
    "padding": _layer("Reshape", target_shape=[10**9]),
    "embedding": _layer("Embedding", input_dim=10**9, output_dim=1000),
    "operation": _layer("Zeros", "keras.src.ops.numpy"),
    "unknown operation": _layer("system", "keras.src.ops.os"),
}


_BAD_CONFIGS: dict[str, bytes] = {
    "no JSON": b"{",
    "empty": b"",
    "number": b"5",
    "list": b"[]",
    "null": b"null",
    "empty object": b"{}",
    "no class": b'{"config": {"layers": []}}',
    "no config": b'{"class_name": "Functional"}',
    "config is a number": b'{"class_name": "Functional", "config": 5}',
    "config is null": b'{"class_name": "Sequential", "config": null}',
    "no layers": b'{"class_name": "Sequential", "config": {"name": "s", "layers": []}}',
    "layers is a number": b'{"class_name": "Sequential", "config": {"name": "s", "layers": 5}}',
    "only an input": b'{"class_name": "Sequential", "config": {"name": "s", "layers": [{"class_name": "InputLayer", '
    b'"config": {"batch_shape": [null, 2]}}]}}',
    "input of rank 0": b'{"class_name": "Sequential", "config": {"name": "s", "layers": [{"class_name": "InputLayer", '
    b'"config": {"batch_shape": []}}]}}',
    "input shape is a text": b'{"class_name": "Sequential", "config": {"name": "s", "layers": [{"class_name": '
    b'"InputLayer", "config": {"batch_shape": "ab"}}]}}',
    "huge input": b'{"class_name": "Sequential", "config": {"name": "s", "layers": [{"class_name": "InputLayer", '
    b'"config": {"batch_shape": [null, 1' + b"0" * 30 + b"]}}]}}",
    "a layer": b'{"class_name": "Dense", "config": {"units": 3}}',
    "an optimizer": b'{"class_name": "Adam", "module": "keras.optimizers", "config": {}}',
    "lambda": b'{"class_name": "Lambda", "config": {"function": "x"}}',
    "marshalled": b'{"class_name": "__lambda__", "config": {"value": "x"}}',
    "saved model": b'{"class_name": "TFSMLayer", "config": {"filepath": "/tmp/canary"}}',
    "module": b'{"class_name": "Popen", "module": "subprocess", "config": {"args": "false"}}',
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "long number": b'{"class_name": ' + b"9" * 100_000 + b"}",
    "long": b'{"class_name": "' + b"x" * 3_000_000 + b'"}',
    "UTF-16": '{"class_name": "Functional"}'.encode("utf-16"),
    "invalid UTF-8": b'{"class_name": "\xff"}',
    "NaN": b"NaN",
}


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_models_with_hostile_layers_are_refused(
    suffix: str, models: Path, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    record_property("attacks", len(_BAD_LAYERS) + len(_BAD_CONFIGS))
    failures = {}
    for label, change in _BAD_LAYERS.items():
        config = _config(models, suffix)
        layers = config["config"]["layers"]
        layers[1] = change(layers[1])
        failures[label] = _problems(_with_config(models, tmp_path, suffix, config))
    for label, text in _BAD_CONFIGS.items():
        if suffix == "keras" or (len(text) < 60_000 and 0 not in text):  # what an attribute of an HDF5 file can be
            failures[label] = _problems(_with_config(models, tmp_path, suffix, text))
    assert {label: problems for label, problems in failures.items() if problems} == {}


# -- the files -------------------------------------------------------------------------------------------------------


def _replace(name: str, create: Callable[[h5py.File, str], Any]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        create(file, name)

    return change


def _virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/tmp/canary.h5", "x", (4,))
    file.create_virtual_dataset(name, layout)


def _attribute(name: str, value: Any, place: str = "/") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[place].attrs[name] = value

    return change


def _repeated(file: h5py.File, name: str) -> None:
    data = file.create_dataset(f"{name}_0", (2**27,), "f4", chunks=(2**20,), compression="gzip")
    for number in range(1, 20):
        file[f"{name}_{number}"] = data


_KERNEL = "model_weights/hidden/hidden/kernel"
_BAD_HDF5: dict[str, Callable[[h5py.File], None]] = {
    **{
        f"{kind} at {place}": _replace(place, create)
        for place in (_KERNEL, "model_weights/hidden", "model_weights", "model_weights/hidden/extra")
        for kind, create in {
            "external link": lambda f, n: f.__setitem__(n, h5py.ExternalLink("/tmp/canary.h5", "/x")),
            "external link to a device": lambda f, n: f.__setitem__(n, h5py.ExternalLink("/dev/zero", "/x")),
            "soft link": lambda f, n: f.__setitem__(n, h5py.SoftLink("/model_weights/out")),
            "dangling link": lambda f, n: f.__setitem__(n, h5py.SoftLink("/nothing")),
            "link to itself": lambda f, n: f.__setitem__(n, h5py.SoftLink(f"/{n}")),
            "external storage": lambda f, n: f.create_dataset(n, (8,), "f4", external=[("/tmp/canary", 0, 32)]),
            "virtual": _virtual,
            "huge": lambda f, n: f.create_dataset(n, (2**40,), "f4", chunks=(2**20,)),
            "huge compressed": lambda f, n: f.create_dataset(
                n, (2**40, 4), "f4", chunks=(2**20, 4), compression="gzip"
            ),
            "overflowing size": lambda f, n: f.create_dataset(n, (2**33, 2**33), "f4", chunks=(2**10, 2**10)),
            "texts": lambda f, n: f.create_dataset(n, data=["a", "b"]),
            "objects": lambda f, n: f.create_dataset(n, data=np.array([f.ref], h5py.ref_dtype)),
            "compound": lambda f, n: f.create_dataset(n, data=np.zeros(3, "f4,i4")),
            "complex": lambda f, n: f.create_dataset(n, data=np.zeros(3, "c8")),
            "opaque": lambda f, n: f.create_dataset(n, data=np.zeros(3, "V8")),
            "type": lambda f, n: f.__setitem__(n, np.dtype("f4")),
            "parent": lambda f, n: f.__setitem__(n, f["/"]),
            "other group": lambda f, n: f.__setitem__(n, f.require_group("elsewhere")),
            "many links": _repeated,
        }.items()
    },
    "missing kernel": lambda f: f.__delitem__(_KERNEL),
    "missing layer": lambda f: f.__delitem__("model_weights/hidden"),
    "missing weights": lambda f: f.__delitem__("model_weights"),
    "missing configuration": lambda f: f.attrs.__delitem__("model_config"),
    "empty kernel": _replace(_KERNEL, lambda f, n: f.create_dataset(n, dtype="f4")),
    "scalar kernel": _replace(_KERNEL, lambda f, n: f.create_dataset(n, data=1.0)),
    "kernel of another shape": _replace(_KERNEL, lambda f, n: f.create_dataset(n, data=np.zeros((3, 4)))),
    "kernel of no rows": _replace(_KERNEL, lambda f, n: f.create_dataset(n, data=np.zeros((0, 4)))),
    "group as a kernel": _replace(_KERNEL, lambda f, n: f.create_group(n)),
    "array as a layer": _replace("model_weights/hidden", lambda f, n: f.create_dataset(n, data=[1.0])),
    "array as weights": _replace("model_weights", lambda f, n: f.create_dataset(n, data=[1.0])),
    "configuration is a number": _attribute("model_config", 5),
    "configuration is a list": _attribute("model_config", ["a", "b"]),
    "configuration is empty": _attribute("model_config", h5py.Empty("f4")),
    "configuration is an array": _attribute("model_config", np.zeros(4)),
    "weight names are numbers": _attribute("weight_names", [1, 2], "model_weights/hidden"),
    "weight names leave the group": _attribute("weight_names", ["../../out", "/"], "model_weights/hidden"),
    "weight names are missing": _attribute("weight_names", ["a", "b"], "model_weights/hidden"),
    "layer names are missing": _attribute("layer_names", ["a", "b", "c"], "model_weights"),
    "layer names are the root": _attribute("layer_names", ["/", "/", "/"], "model_weights"),
    "no layer names": lambda f: f["model_weights"].attrs.__delitem__("layer_names"),
}


def test_hostile_hdf5_files_are_refused(models: Path, tmp_path: Path, record_property: Callable[..., None]) -> None:
    record_property("attacks", len(_BAD_HDF5))
    failures = {label: _problems(_changed_h5(models, tmp_path, change)) for label, change in _BAD_HDF5.items()}
    assert {label: problems for label, problems in failures.items() if problems} == {}


def _weights(change: Callable[[h5py.File], None]) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        change(file)
    return content.getvalue()


_BAD_MEMBERS: dict[str, dict[str, bytes | None]] = {
    "path traversal": {"../canary": b"x"},
    "absolute path": {"/tmp/canary": b"x"},
    "traversal in assets": {"assets/../../canary": b"x"},
    "assets": {"assets/layers/a/vocabulary.txt": b"x"},
    "extra": {"extra.py": b"import os"},
    "folder": {"config.json/": b""},
    "no configuration": {"config.json": None},
    "no metadata": {"metadata.json": None},
    "no weights": {"model.weights.h5": None},
    "weights as npz": {"model.weights.h5": None, "model.weights.npz": b"PK"},
    "nothing": {"config.json": None, "metadata.json": None, "model.weights.h5": None},
    "configuration bomb": {"config.json": b" " * 3_000_000},
    "weights bomb": {"model.weights.h5": bytes(3_000_000)},
    "many members": {f"{number}": b"" for number in range(5000)},
    "damaged weights": {"model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(100)},
    "empty weights": {"model.weights.h5": b""},
    "pickle as weights": {"model.weights.h5": b"cos\nsystem\n(S'false'\ntR."},
    **{
        label: {"model.weights.h5": _weights(change)}
        for label, change in {
            "no arrays": lambda f: None,
            "external link": lambda f: f.__setitem__("layers", h5py.ExternalLink("/tmp/canary.h5", "/x")),
            "soft link": lambda f: f.__setitem__("layers", h5py.SoftLink("/")),
            "huge": lambda f: f.create_dataset("layers/dense/vars/0", (2**40,), "f4", chunks=(2**20,)),
            "cycle": lambda f: f.create_group("layers").__setitem__("dense", f["layers"]),
            "texts": lambda f: f.create_dataset("layers/dense/vars/0", data=["a"]),
            "external storage": lambda f: f.create_dataset("x", (8,), "f4", external=[("/tmp/canary", 0, 32)]),
            "other arrays": lambda f: f.create_dataset("layers/dense/vars/0", data=np.zeros((7, 7))),
        }.items()
    },
}


def test_hostile_keras_archives_are_refused(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[..., None]
) -> None:
    monkeypatch.setattr(model_file, "_MAX_BYTES", 1_000_000)  # so that a bomb is quickly made
    failures = {label: _problems(_changed_keras(models, tmp_path, members)) for label, members in _BAD_MEMBERS.items()}
    whole = {suffix: (models / f"model.{suffix}").read_bytes() for suffix in ("h5", "keras")}
    for suffix, content in whole.items():
        path = tmp_path / f"model.{suffix}"
        for label, data in {
            "empty": b"",
            "text": b"no model",
            "half": content[: len(content) // 2],
            "other format": whole["h5" if suffix == "keras" else "keras"],
            "garbage at the front": b"x" * 5000 + content[5000:],
            "no end": content[:-30],
        }.items():
            path.write_bytes(data)
            failures[f"{suffix}: {label}"] = _problems(path)
    with zipfile.ZipFile(tmp_path / "model.keras", "a") as archive:
        archive.writestr("config.json", b"{}")
    failures["repeated member"] = _problems(tmp_path / "model.keras")
    record_property("attacks", len(failures))
    assert {label: problems for label, problems in failures.items() if problems} == {}


@pytest.mark.slow
def test_damaged_archives_are_refused_or_load(
    models: Path, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    record_property("attacks", 300)
    path, content, rng = tmp_path / "model.keras", (models / "model.keras").read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 3, 30))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        assert _problems(path) in ([], ["loads"])
