from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrainer.cli import main
from autotrainer.demo.reproduce import Configuration, load_data, read_config, repaired_config
from autotrainer.edits import (
    ClipGradients,
    Edit,
    InsertNormalization,
    SetBatchSize,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SetWeightDecay,
    SwapOptimizer,
)
from autotrainer.errors import ConfigError, DataError, InputError

DATA = Path(os.environ.get("AUTOTRAINER_DATA", Path(__file__).parents[4] / "shared" / "data"))
ORIGINAL = DATA / "original"
needs_data = pytest.mark.skipif(not ORIGINAL.is_dir(), reason="the published artefacts are not in AUTOTRAINER_DATA")

CONFIG: dict[str, Any] = {
    "optimizer": "Adam",
    "opt_kwargs": {"lr": 0.001},
    "batchsize": 128,
    "epoch": 300,
    "dataset": "simplednn_circle",
    "loss": "binary_crossentropy",
}


class _RunsCommand:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def _pickle(folder: Path, value: Any, protocol: int = 3) -> Path:
    path = folder / "config.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def test_malicious_configuration_is_named_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _pickle(tmp_path, {**CONFIG, "loss": _RunsCommand()})
    assert main(["reproduce", "--model", "m.h5", "--config", str(path)]) == 2
    printed = capsys.readouterr().err
    assert "system" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("suffix", ["json", "pkl"])
def test_configuration_from_json_and_pickle(tmp_path: Path, suffix: str) -> None:
    path = _pickle(tmp_path, CONFIG) if suffix == "pkl" else tmp_path / "config.json"
    if suffix == "json":
        path.write_text(json.dumps(CONFIG))
    config = read_config(path)
    assert (config.optimizer, config.epochs, config.batch_size) == ("Adam", 300, 128)
    assert config.values == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": None}, "epoch must be an integer in .1, 1000000., not None"),
        ({"epoch": 2.5}, "epoch must be an integer"),
        ({"batchsize": 0}, "batchsize must be an integer"),
        ({"dataset": "simplednn_cirle"}, "did you mean 'simplednn_circle'"),
        ({"opt_kwargs": [1]}, "opt_kwargs must be a dict"),
    ],
)
def test_invalid_values_are_config_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Configuration.from_values({**CONFIG, **change}, "config.json")


@pytest.mark.parametrize("lacking", ["dataset", "loss", "optimizer", "epoch", "batchsize"])
def test_missing_keys_are_named(lacking: str) -> None:
    values = {key: value for key, value in CONFIG.items() if key != lacking}
    with pytest.raises(ConfigError, match=f"lacks '{lacking}'"):
        Configuration.from_values(values, "config.json")


def test_other_files_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "broken.json").write_text("{")
    for name in ("list.json", "broken.json", "missing.json", "missing.pkl", "config.yaml"):
        with pytest.raises(ConfigError):
            read_config(tmp_path / name)


@pytest.mark.parametrize(
    ("edits", "change"),
    [
        ((), {}),
        ((SetLearningRate(0.1),), {"opt_kwargs": {"lr": 0.1}}),
        ((SwapOptimizer("sgd", 0.05, 0.9),), {"optimizer": "SGD", "opt_kwargs": {"lr": 0.05, "momentum": 0.9}}),
        (
            (SwapOptimizer("rmsprop", 0.01), SetMomentum(0.5)),
            {"optimizer": "RMSprop", "opt_kwargs": {"lr": 0.01, "momentum": 0.5}},
        ),
        ((SetWeightDecay(0.1),), {"opt_kwargs": {"lr": 0.001, "weight_decay": 0.1}}),
        ((ClipGradients("value", 2.0),), {"opt_kwargs": {"lr": 0.001, "clipvalue": 2.0}}),
        ((ClipGradients("norm", 2.0),), {"opt_kwargs": {"lr": 0.001, "global_clipnorm": 2.0}}),
        ((SetBatchSize(64), InsertNormalization(("a",))), {"batchsize": 64}),
        ((SetLoss("cross_entropy", "probabilities"),), {"loss": "categorical_crossentropy"}),
        (
            (SetLoss("binary_cross_entropy", "logits"),),
            {"loss": {"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}},
        ),
    ],
)
def test_repaired_configuration_keeps_its_keys(edits: tuple[Edit, ...], change: dict[str, Any]) -> None:
    from autotrainer.demo import published_models

    values = repaired_config(Configuration.from_values(CONFIG, "c"), edits)
    assert values == {**CONFIG, **change}
    again = Configuration.from_values(json.loads(json.dumps(values)), "c")
    published_models.build_optimizer(again.optimizer, again.opt_kwargs)
    published_models.read_loss(again.loss)


def _idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(("folder", "packed"), [("mnist", True), (".", False)])
def test_mnist_is_read_from_idx_files(tmp_path: Path, folder: str, packed: bool) -> None:
    images = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
    (tmp_path / folder).mkdir(exist_ok=True)
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", images), ("labels-idx1", np.array([0, 4, 9]))):
            path = tmp_path / folder / f"{part}-{name}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(_idx(array)) if packed else _idx(array))
    (x, y), validation = load_data("mnist", tmp_path)
    np.testing.assert_allclose(x, images / 255, rtol=1e-6)
    assert y.tolist() == validation[1].tolist() == [0, 4, 9]
    (tmp_path / folder / f"train-images-idx3-ubyte{'.gz' if packed else ''}").write_bytes(b"\x00\x00")
    with pytest.raises(DataError, match="is damaged"):
        load_data("mnist", tmp_path)


def test_missing_mnist_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOTRAINER_DATA", raising=False)
    with pytest.raises(DataError, match="give --data DIR"):
        load_data("mnist")
    with pytest.raises(DataError, match="no train-images-idx3-ubyte"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("Adam", {"lr": 0.01, "beta_1": 0.3, "epsilon": None}, {"beta_1": 0.3}),
        ("sgd", {"lr": 0.01, "momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
        ("Nadam", {"lr": 0.01, "schedule_decay": 0.004}, {}),
        ("RMSprop", {"learning_rate": 0.01, "rho": 0.8, "clipnorm": 1.0}, {"rho": 0.8, "clipnorm": 1.0}),
    ],
)
def test_keras_2_optimizers(name: str, arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    from autotrainer.demo.published_models import build_optimizer

    config = build_optimizer(name, arguments).get_config()
    assert {key: config[key] for key in expected} == expected
    assert config["learning_rate"] == pytest.approx(0.01)


def test_keras_2_decay_becomes_a_schedule() -> None:
    from autotrainer.demo.published_models import build_optimizer

    schedule = build_optimizer("SGD", {"lr": 0.1, "decay": 0.5})._learning_rate
    assert [float(schedule(step)) for step in (0, 2)] == pytest.approx([0.1, 0.05])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Adamm", {}, "did you mean 'Adam'"),
        ("Adam", {"momentum": 0.9}, "Adam has no argument 'momentum'"),
        ("SGD", {"lr": "fast"}, "learning_rate must be a finite number, not 'fast'"),
    ],
)
def test_invalid_optimizers_are_config_errors(name: str, arguments: dict[str, Any], message: str) -> None:
    from autotrainer.demo.published_models import build_optimizer

    with pytest.raises(ConfigError, match=message):
        build_optimizer(name, arguments)


@needs_data
@pytest.mark.parametrize("path", sorted(ORIGINAL.glob("*.h5")), ids=lambda path: path.stem)
def test_published_models_load_with_their_weights(path: Path) -> None:
    import h5py

    from autotrainer.demo.published_models import load_model

    model = load_model(path)
    outputs = model(np.zeros((2, *model.input_shape[1:]), np.float32))
    assert tuple(outputs.shape) == (2, model.output_shape[-1])
    stored: list[np.ndarray[Any, Any]] = []
    with h5py.File(path) as file:
        file["model_weights"].visititems(lambda _, v: stored.append(v[()]) if hasattr(v, "shape") else None)
    total = sum(float(np.abs(weight).sum()) for weight in stored)
    assert sum(float(np.abs(w).sum()) for w in model.get_weights()) == pytest.approx(total, rel=1e-5)


@needs_data
@pytest.mark.parametrize("path", sorted(ORIGINAL.glob("*.pkl")), ids=lambda path: path.stem)
def test_published_configurations_load(path: Path) -> None:
    from autotrainer.demo.published_models import build_optimizer, read_loss

    config = read_config(path)
    build_optimizer(config.optimizer, config.opt_kwargs)
    read_loss(config.loss)
    assert json.loads(json.dumps(config.values)) == config.values


def test_other_files_are_not_models(tmp_path: Path) -> None:
    from autotrainer.demo.published_models import load_model

    (tmp_path / "broken.h5").write_bytes(b"no model")
    for name in ("missing.h5", "broken.h5", "model.pt"):
        with pytest.raises(InputError, match=name):
            load_model(tmp_path / name)


def test_lambda_layers_are_refused(tmp_path: Path) -> None:
    import h5py

    from autotrainer.demo.published_models import load_model

    layers = [{"class_name": "Lambda", "config": {"name": "l", "batch_input_shape": [None, 2]}}]
    with h5py.File(tmp_path / "lambda.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
    with pytest.raises(InputError, match="Lambda layer"):
        load_model(tmp_path / "lambda.h5")


@pytest.mark.slow
@needs_data
def test_reproduce_repairs_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    model, config = ORIGINAL / "vanishing_circle.h5", ORIGINAL / "vanishing_circle.pkl"
    out = tmp_path / "out"
    assert main(["reproduce", "--model", str(model), "--config", str(config), "--out", str(out)]) == 0
    assert "repaired" in capsys.readouterr().out
    assert set(read_config(out / "config.json").values) == set(read_config(config).values)
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["result"]["score"] > report["result"]["baseline_score"] + 0.2
    saved = keras.models.load_model(out / "model.keras", compile=False)
    (_, _), (x, y) = load_data("simplednn_circle")
    predicted = saved.predict(x, verbose=0)[:, 0] > 0.5
    assert float((predicted == y).mean()) == pytest.approx(report["result"]["score"], abs=1e-6)
