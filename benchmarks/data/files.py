"""Data sets read from files already on this machine; nothing is ever downloaded."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError

__all__ = ["FILES", "data_folder", "find", "read_files"]

Array = NDArray[Any]

WORDS, LENGTH = 2000, 80
"""Texts: the number of most frequent words kept (0 pads, 2 replaces all others), and of last tokens per text."""


def data_folder() -> Path:
    """Return the folder of the shared data: ``AUTOTRAINER_DATA``, else ``shared/data`` next to the checkout.

    Raises:
        DataError: If it does not exist.
    """
    folder = _shared()
    if not folder.is_dir():
        raise DataError(
            f"no benchmark data at {folder}: set AUTOTRAINER_DATA to the folder that holds real/ and mnist/"
        )
    return folder


def _shared() -> Path:
    folder = os.environ.get("AUTOTRAINER_DATA")
    return Path(folder) if folder else Path(__file__).resolve().parents[3] / "shared" / "data"


def find(name: str) -> Path:
    """Return the path of a data set: in the shared data, in Keras's cache, or where torchvision stores it.

    Args:
        name: One of `FILES`.

    Raises:
        DataError: If it is in none of these places.
    """
    keras = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"
    roots = [_shared(), keras, Path("data")]
    for root in roots:
        for path in FILES[name][0]:
            if (root / path).exists():
                return root / path
    raise DataError(
        f"{name} is not on this machine (expected {' or '.join(FILES[name][0])} in {' or '.join(map(str, roots))}): "
        "copy it there or choose other data; nothing is downloaded"
    )


def read_files(name: str, train_rows: int, test_rows: int) -> list[Array]:
    """Return inputs and targets for training, then for the test.

    Args:
        name: One of `FILES`.
        train_rows: Number of training rows: the first ones.
        test_rows: Number of test rows.

    Raises:
        DataError: If the files are missing or can't be read.
    """
    path = find(name)
    try:
        x_train, y_train, x_test, y_test = FILES[name][1](path, train_rows, test_rows)
    except (OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} can't be read as {name}: {error}") from error
    return [x_train[:train_rows], y_train[:train_rows], x_test[:test_rows], y_test[:test_rows]]


def _mnist(path: Path, train_rows: int, test_rows: int) -> Sequence[Array]:
    if path.suffix == ".npz":
        with np.load(path) as stored:
            x_train, y_train, x_test, y_test = (stored[n] for n in ("x_train", "y_train", "x_test", "y_test"))
        return x_train.reshape(-1, 784), y_train, x_test.reshape(-1, 784), y_test

    def read(name: str) -> Array:
        packed = path / f"{name}.gz"
        raw = gzip.decompress(packed.read_bytes()) if packed.is_file() else (path / name).read_bytes()
        images = raw[3] == 3  # an IDX header: magic number with the rank, then one size per axis
        values = np.frombuffer(raw, np.uint8, offset=16 if images else 8)
        return values.reshape(-1, 784) if images else values

    parts = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return [read(part) for part in parts]


def _cifar10(path: Path, train_rows: int, test_rows: int) -> Sequence[Array]:
    def read(name: str) -> tuple[Array, Array]:
        with (path / name).open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
        return batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.asarray(batch[b"labels"])

    needed = range(1, 2 + (train_rows - 1) // 10_000)
    parts = [read(f"data_batch_{i}") for i in needed]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), *read("test_batch")


def _texts(path: Path, train_rows: int, test_rows: int) -> Sequence[Array]:
    """Read texts as Keras stores them, shuffled as Keras does by default; see `WORDS`."""
    with zipfile.ZipFile(path) as stored:
        parts = {name.removesuffix(".npy"): _object_array(stored, name) for name in stored.namelist()}
    if "x" in parts:  # Reuters: one part
        order = _order(len(parts["x"]), 113)
        x, y = _tokens(parts["x"][order]), np.asarray(parts["y"][order], np.int64)
        cut = int(0.8 * len(x))
        return x[:cut], y[:cut], x[cut:], y[cut:]
    train, test = _order(len(parts["x_train"]), 113), _order(len(parts["x_test"]), 114)
    x_train, x_test = parts["x_train"][train[:train_rows]], parts["x_test"][test[:test_rows]]
    return _tokens(x_train), parts["y_train"][train[:train_rows]], _tokens(x_test), parts["y_test"][test[:test_rows]]


def _order(rows: int, seed: int) -> Array:
    return np.random.default_rng(seed).permutation(rows)


def _tokens(texts: Array) -> Array:
    """Return texts as token indices of shape (rows, `LENGTH`): words from 3, 1 at the start, padded with 0 in front."""
    tokens = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in zip(tokens, texts, strict=True):
        tokens_of_text = [1, *(word + 3 if word + 3 < WORDS else 2 for word in text)][-LENGTH:]
        row[LENGTH - len(tokens_of_text) :] = tokens_of_text
    return tokens


def _object_array(stored: zipfile.ZipFile, name: str) -> Array:
    with stored.open(name) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if read_header(file)[2].hasobject:
            return np.asarray(_Unpickler(file).load(), dtype=object)
    with stored.open(name) as file:
        return np.asarray(np.lib.format.read_array(file))


class _Unpickler(pickle.Unpickler):
    """Unpickler restricted to arrays and plain values."""

    def __init__(self, file: IO[bytes], **kwargs: Any) -> None:
        super().__init__(file, **kwargs)

    def find_class(self, module: str, name: str) -> Any:
        """Return NumPy's array constructors; refuse everything else."""
        core = module.replace("numpy._core", "numpy.core")
        if (core, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (core, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]
        if (core, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a data set")


FILES: Mapping[str, tuple[tuple[str, ...], Callable[[Path, int, int], Sequence[Array]]]] = {
    "mnist": (("mnist", "mnist.npz", "MNIST/raw"), _mnist),
    "cifar10": (
        ("cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py", "cifar-10/cifar-10-batches-py"),
        _cifar10,
    ),
    "imdb": (("imdb.npz",), _texts),
    "reuters": (("reuters.npz",), _texts),
}
"""Data sets by name: their paths inside the usual folders, and the function that reads them."""
