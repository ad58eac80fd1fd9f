"""Configurations and data of unknown origin: every key with every kind of value, and files with wrong sizes."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer.cli import main
from autotrainer.demo import mnist
from autotrainer.demo.published_models import build_optimizer, read_loss
from autotrainer.demo.reproduce import load_data, read_config
from autotrainer.errors import ConfigError, DataError

CONFIG: dict[str, Any] = {
    "optimizer": "Adam",
    "opt_kwargs": {"lr": 0.001},
    "batchsize": 128,
    "epoch": 1,
    "dataset": "simplednn_circle",
    "loss": "binary_crossentropy",
}

_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, 10**18, 10**30, -(10**30), 1e308, -1e308, 1e-320, float("nan"), float("inf"),
    float("-inf"), "", "a", "1", "\x1b[31m", "\ud800", "a\nb", "x" * 100_000, [], [1], [[]], {}, {"a": 1}, {"": None},
    {"class_name": "Adam", "config": {}}, {"class_name": "Popen", "module": "subprocess", "config": {"args": "false"}},
    {"class_name": "__lambda__", "config": {"value": "x"}}, {"class_name": "function", "config": "get_file"},
    {"class_name": "ExponentialDecay", "config": {"initial_learning_rate": 0.1}},
]  # fmt: skip

_ARGUMENTS = [
    "lr", "learning_rate", "decay", "beta_1", "beta_2", "epsilon", "amsgrad", "weight_decay", "clipnorm", "clipvalue",
    "global_clipnorm", "use_ema", "ema_momentum", "ema_overwrite_frequency", "loss_scale_factor",
    "gradient_accumulation_steps", "name", "momentum", "schedule_decay", "\x1b[31m", "", "__class__", "self",
]  # fmt: skip

_OPTIMIZERS = [
    "",
    "\x1b[31m",
    "os.system",
    "keras.optimizers.Adam",
    "get",
    "Optimizer",
    "x" * 900_000,
    "__init__",
    "Muon",
]
_LOSSES: list[Any] = [
    "", "os.system", "\x1b[31m", "get", "deserialize", "Loss", "x" * 900_000, "keras.losses.mse", 5, None, ["mse"],
    {"config": {}}, {"class_name": "MeanSquaredError", "config": 5},
    {"class_name": "MeanSquaredError", "config": {"nope": 1}}, {"class_name": None, "config": None},
    {"class_name": "MeanSquaredError", "config": {"fn": {"class_name": "__lambda__"}}},
    {"class_name": "Loss", "config": {}}, {"class_name": ["mse"], "config": {}},
    {"class_name": "Lambda", "config": {"function": "x"}}, {"class_name": "TFSMLayer", "config": {"filepath": "/"}},
    {"class_name": "Popen", "module": "subprocess", "config": {"args": "false"}},
    {"class_name": "function", "config": "os.system"}, {"class_name": "function", "config": {"a": 1}},
    {"class_name": "BinaryCrossentropy", "config": {"from_logits": [1]}},
]  # fmt: skip


def _settings() -> dict[str, dict[str, Any]]:
    """Return configurations with one hostile value each, by a label."""
    settings = {f"{key}={value!r:.40}": {**CONFIG, key: value} for key in CONFIG for value in _VALUES}
    settings |= {f"optimizer={name!r:.40}": {**CONFIG, "optimizer": name} for name in _OPTIMIZERS}
    settings |= {f"loss={loss!r:.80}": {**CONFIG, "loss": loss} for loss in _LOSSES}
    for argument in _ARGUMENTS:
        for value in _VALUES:
            settings[f"{argument}={value!r:.40}"] = {**CONFIG, "opt_kwargs": {argument: value}}
    return settings


def _prepare(path: Path) -> None:
    config = read_config(path)
    read_loss(config.loss)
    build_optimizer(config.optimizer, config.opt_kwargs)


def test_hostile_settings_are_refused_in_one_line(tmp_path: Path, record_property: Callable[..., None]) -> None:
    settings, accepted, path = _settings(), [], tmp_path / "config.json"
    record_property("attacks", len(settings))
    for label, values in settings.items():
        path.write_text(json.dumps(values), "utf-8")
        try:
            _prepare(path)
            accepted.append(label)
        except ConfigError as error:
            if len(str(error)) > 700:
                accepted.append(f"{label}: too long a message")
    # what is accepted has a meaning: finite numbers, or an argument without effect
    assert not [label for label in accepted if label.partition("=")[0] in ("dataset", "epoch", "loss", "optimizer")
                and label.partition("=")[2] not in ("1", "10**18")]  # fmt: skip
    assert not [label for label in accepted if "class_name" in label and "name=" not in label and "decay=" not in label]


_JSON = {
    "empty": b"",
    "text": b"no JSON",
    "list": b"[]",
    "number": b"5",
    "null": b"null",
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 100_000,
    "balanced": b"[" * 100_000 + b"]" * 100_000,
    "nested": b"[" * 40 + b"]" * 40,
    "long number": b"9" * 100_000,
    "number of 4,000 digits": b'{"epoch": ' + b"9" * 4000 + b"}",
    "large": b'{"loss": "' + b"x" * 2_000_000 + b'"}',
    "many values": b"[" + b"0," * 200_000 + b"0]",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "invalid UTF-8": b'{"a": "\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b"{}\x00",
    "repeated": b'{"epoch": 1, "epoch": "a"}',
}


def test_hostile_json_is_refused_in_one_line(tmp_path: Path, record_property: Callable[..., None]) -> None:
    record_property("attacks", len(_JSON) + 3)
    for label, content in _JSON.items():
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            read_config(tmp_path / "config.json")
        assert len(str(caught.value)) < 700, label
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.pkl").mkdir()
    (tmp_path / "device.json").symlink_to("/dev/zero")
    for name in ("folder.json", "folder.pkl", "device.json"):
        with pytest.raises(ConfigError):
            read_config(tmp_path / name)


# -- data ------------------------------------------------------------------------------------------------------------


def _idx(shape: tuple[int, ...], values: int | None = None, kind: int = 8) -> bytes:
    length = int(np.prod(shape)) if values is None else values
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + bytes(length)


_IMAGES, _LABELS = _idx((5, 28, 28)), _idx((5,))
_BAD_IMAGES = {
    "empty": b"",
    "one byte": b"\x00",
    "magic only": b"\x00\x00\x08",
    "rank 0": _idx((), 1),
    "rank 0 without values": _idx((), 0),
    "rank 255 without a shape": b"\x00\x00\x08\xff",
    "rank 255": _idx((1,) * 255),
    "rank 1": _idx((784,)),
    "rank 2": _idx((5, 784)),
    "rank 4": _idx((5, 28, 28, 1)),
    "no rows": _idx((0, 28, 28)),
    "no columns": _idx((5, 0, 28)),
    "other images": _idx((5, 27, 28)),
    "too few values": _idx((5, 28, 28), 5 * 784 - 1),
    "too many values": _idx((5, 28, 28), 5 * 784 + 1),
    "no values": _idx((5, 28, 28), 0),
    "huge rows": _idx((2**32 - 1, 28, 28), 784),
    "overflowing shape": _idx((2**32 - 1, 2**32 - 1, 2**32 - 1), 784),
    "shape that wraps to the right size": _idx((2**31, 2**31, 4), 0),
    "cut header": struct.pack(">HBBI", 0, 8, 3, 5),
    "floats": _idx((5, 28, 28), kind=13),
    "text": b"<html>not found</html>",
    "pickle": b"cos\nsystem\n(S'false'\ntR.",
}
_BAD_LABELS = {
    "rank 0 labels": _idx((), 1),
    "no labels": _idx((0,)),
    "labels of rank 2": _idx((5, 1)),
    "fewer labels": _idx((4,)),
    "lying labels": _idx((2**32 - 1,), 5),
}


def test_hostile_idx_files_are_data_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[..., None]
) -> None:
    monkeypatch.setattr(mnist, "_MAX_BYTES", 1_000_000)  # so that a bomb is quickly made
    attacks: list[tuple[str, str, bytes]] = []
    for part in ("train", "t10k"):
        attacks += [(label, f"{part}-images-idx3-ubyte", content) for label, content in _BAD_IMAGES.items()]
        attacks += [(label, f"{part}-labels-idx1-ubyte", content) for label, content in _BAD_LABELS.items()]
    bomb = _idx((2_000, 28, 28))
    record_property("attacks", 2 * len(attacks) + 7)
    good = {f"{part}-{name}": content for part in ("train", "t10k")
            for name, content in (("images-idx3-ubyte", _IMAGES), ("labels-idx1-ubyte", _LABELS))}  # fmt: skip
    for packed in (False, True):
        for name, content in good.items():
            (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
        assert load_data("mnist", tmp_path)[0][0].shape == (5, 28, 28)
        for label, name, content in attacks:
            path = tmp_path / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)
            with pytest.raises(DataError) as caught:
                load_data("mnist", tmp_path)
            assert len(str(caught.value)) < 700, label
            path.write_bytes(gzip.compress(good[name]) if packed else good[name])
    whole = gzip.compress(_IMAGES)
    damaged = [whole[:-9], whole[:40], b"\x1f\x8b", b"", whole[:30] + bytes(10) + whole[40:]]
    for content in (gzip.compress(bomb), gzip.compress(whole), *damaged):
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(DataError):
            load_data("mnist", tmp_path)


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_run_ends_with_a_result_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Callable[..., None]
) -> None:
    """Settings that pass the first checks reach Keras, which can still refuse them."""
    import keras

    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")]).save(tmp_path / "model.keras")
    named = keras.layers.Dense(1, "sigmoid", name="a b$;")
    keras.Sequential([keras.Input((2,)), named]).save(tmp_path / "name.keras")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]).save(tmp_path / "input.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Reshape((2, 1))]).save(tmp_path / "output.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Activation("relu")]).save(tmp_path / "none.keras")
    runs: list[tuple[str, dict[str, Any], list[str]]] = [
        ("model.keras", {"opt_kwargs": {"lr": 1e308}}, []),
        ("model.keras", {"opt_kwargs": {"lr": 1e-320}}, []),
        ("model.keras", {"opt_kwargs": {"epsilon": 0}}, []),
        ("model.keras", {"opt_kwargs": {"beta_1": 5}}, []),
        ("model.keras", {"opt_kwargs": {"beta_2": -1e300}}, []),
        ("model.keras", {"opt_kwargs": {"ema_overwrite_frequency": 0.5, "use_ema": True}}, []),
        ("model.keras", {"opt_kwargs": {"loss_scale_factor": 0}}, []),
        ("model.keras", {"opt_kwargs": {"gradient_accumulation_steps": 10**18}}, []),
        ("model.keras", {"opt_kwargs": {"decay": 1e308}}, []),
        ("model.keras", {"batchsize": 1_000_000}, []),
        ("model.keras", {"dataset": "simplednn_blob"}, []),
        ("model.keras", {"dataset": "mnist"}, []),
        ("model.keras", {"loss": "ctc"}, []),
        ("model.keras", {"loss": "sparse_categorical_crossentropy"}, []),
        ("model.keras", {"loss": {"class_name": "Huber", "config": {"delta": "a"}}}, []),
        ("model.keras", {"loss": {"class_name": "CosineSimilarity", "config": {"axis": 10**17}}}, []),
        ("model.keras", {"loss": {"class_name": "BinaryCrossentropy", "config": {"label_smoothing": "a"}}}, []),
        ("model.keras", {"loss": {"class_name": "BinaryCrossentropy", "config": {"dtype": "a"}}}, []),
        ("model.keras", {"loss": {"class_name": "MeanSquaredError", "config": {"name": "\x1b[31m"}}}, []),
        ("model.keras", {}, ["--budget", "nan"]),
        ("model.keras", {}, ["--budget", "-1"]),
        ("model.keras", {}, ["--budget", "a"]),
        ("model.keras", {}, ["--out", "/dev/null/x"]),
        ("model.keras", {}, ["--out", str(tmp_path / "config.json")]),
        ("model.keras", {"dataset": "mnist"}, ["--data", str(tmp_path / "config.json")]),
        ("model.keras", {}, ["--out", "a\0b"]),
        ("name.keras", {}, []),
        ("input.keras", {}, []),
        ("output.keras", {}, []),
        ("none.keras", {}, []),
        ("config.json", {}, []),
        ("\x1b[31m.keras", {}, []),
        ("a\0b.keras", {}, []),
        ("x" * 5000 + ".keras", {}, []),
    ]  # fmt: skip
    record_property("attacks", len(runs))
    for model, change, arguments in runs:
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **change}))
        options = [
            "--config",
            str(tmp_path / "config.json"),
            "--budget",
            "1.5",
            "--out",
            str(tmp_path / "out"),
            *arguments,
        ]
        status = main(["reproduce", "--model", str(tmp_path / model), *options])
        printed = capsys.readouterr()
        assert status in (0, 1, 2), (model, change, arguments)
        if status == 2:
            assert printed.err.startswith("autotrainer: "), printed.err
            assert printed.err.count("\n") == 1, printed.err
            assert printed.err.strip().isprintable(), printed.err
            assert printed.out == ""
