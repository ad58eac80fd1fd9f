"""Data sets read from files and caches."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from autotrainer.errors import DataError
from benchmarks.cases.case import load_cases
from benchmarks.data.builtin import BUILTIN
from benchmarks.data.datasets import load
from benchmarks.data.files import FILES, LENGTH, find, read_files
from benchmarks.data.synthetic import SYNTHETIC


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Keras cache, and no data elsewhere."""
    monkeypatch.setenv("AUTOTRAINER_DATA", str(tmp_path / "shared"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "keras" / "datasets"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("cache")
def test_missing_files_are_reported_in_one_line(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is not on this machine") as raised:
        load_cases([f"generated:3@{name}"])
    assert "\n" not in str(raised.value)
    assert "nothing is downloaded" in str(raised.value)


def test_mnist_is_equal_from_keras_and_torchvision_files(cache: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (6, 28, 28), dtype=np.uint8), np.arange(6, dtype=np.uint8)
    np.savez(cache / "mnist.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    from_keras = read_files("mnist", 5, 2)
    assert [part.shape for part in from_keras] == [(5, 784), (5,), (2, 784), (2,)]
    (cache / "mnist.npz").unlink()

    raw = Path("data") / "MNIST" / "raw"
    raw.mkdir(parents=True)
    head = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in (6, 28, 28))
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + x.tobytes())
        labels = bytes((0, 0, 8, 1)) + (6).to_bytes(4, "big") + y.tobytes()
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    for ours, theirs in zip(read_files("mnist", 5, 2), from_keras, strict=True):
        assert np.array_equal(ours, theirs)


def test_cifar10_is_channels_last(cache: Path) -> None:
    folder = cache / "cifar-10-batches-py"
    folder.mkdir()
    red = np.zeros((4, 3, 32, 32), np.uint8)
    red[:, 0] = 200
    for name in ("data_batch_1", "test_batch"):
        batch = {b"data": red.reshape(4, -1), b"labels": [0, 1, 2, 3]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (case,) = load_cases(["generated"], ["cifar10.cnn.rate_too_low.0"])
    data = load(case.original, 0)
    assert data.x_train.shape == (4, 32, 32, 3)
    assert np.allclose(data.x_train[..., 0], 200 / 255)
    assert not data.x_train[..., 1:].any()
    assert data.y_test.tolist() == [0, 1, 2, 3]


def test_texts_are_truncated_and_padded(cache: Path) -> None:
    texts = np.empty(10, object)
    for i in range(10):
        texts[i] = [5, 9000, 7] if i % 2 else list(range(1, 200))
    labels = np.arange(10) % 2
    np.savez(cache / "imdb.npz", x_train=texts, y_train=labels, x_test=texts, y_test=labels)
    np.savez(cache / "reuters.npz", x=texts, y=labels)
    (case,) = load_cases(["generated"], ["imdb.gru.rate_too_low.0"])
    data = load(case.original, 0)
    assert data.x_train.shape == (10, LENGTH)
    assert data.x_train.dtype == np.int64
    for row, label in zip(data.x_train, data.y_train[:, 0], strict=True):
        assert row[-3:].tolist() == ([8, 2, 10] if label else [200, 201, 202])
    assert len(read_files("reuters", 99, 99)[0]) == 8


def test_corrupt_and_malicious_files_are_rejected(cache: Path) -> None:
    (cache / "mnist.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"mnist\.npz can't be read as mnist"):
        read_files("mnist", 1, 1)
    folder = cache / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps(print))
    with pytest.raises(DataError, match="print is not allowed in a data set"):
        read_files("cifar10", 1, 1)


def test_mnist_from_the_shared_data() -> None:
    try:
        find("mnist")
    except DataError as error:
        pytest.skip(str(error))
    (case,) = load_cases(["generated"], ["mnist.cnn.raw_inputs.0"])
    data = load(case.original, 0)
    assert data.x_train.shape == (3000, 28, 28, 1)
    assert data.x_train.max() == 255


def test_names_of_generators_are_unique() -> None:
    assert not set(BUILTIN) & set(SYNTHETIC)
