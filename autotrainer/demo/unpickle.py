"""Safe unpickling of plain values: no class from the pickle is ever instantiated."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from autotrainer.errors import ConfigError

__all__ = ["load_plain"]

_MAX_BYTES = 1_000_000
_MAX_VALUES = 100_000
_MAX_DEPTH = 30
_PLAIN = (bool, int, float, str, type(None))


class _NumberType:
    """Replaces ``numpy.dtype``: only the type of a number and its byte order are read."""

    def __init__(self, kind: str, *_: Any) -> None:
        self.kind, self.order = str(kind), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def numpy(self) -> np.dtype[Any]:
        dtype = np.dtype(self.kind)
        if dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"numpy type {self.kind!r} is not numeric")
        return dtype.newbyteorder(">") if self.order == ">" else dtype


def _scalar(dtype: _NumberType, data: bytes) -> Any:
    """Replaces ``numpy.core.multiarray.scalar``; returns a Python number."""
    return np.frombuffer(data if isinstance(data, bytes) else data.encode("latin1"), dtype.numpy())[0].item()


_ALLOWED = {
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise ConfigError(f"it refers to {module}.{name}, which is not allowed") from None


def load_plain(path: str | Path) -> Any:
    """Read a pickle that contains only dict, list, tuple, str, numbers, None and NumPy numbers.

    Args:
        path: The file, of at most 1 MB.

    Returns:
        The value, with NumPy numbers converted to Python numbers.

    Raises:
        ConfigError: If it can't be read or contains anything else; names the first global that is refused.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise pickle.UnpicklingError(f"it is larger than {_MAX_BYTES:,} bytes")
        return _copy(_PlainUnpickler(io.BytesIO(content), encoding="latin1").load())
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from error
    except Exception as error:  # anything that a damaged or malicious pickle makes the unpickler raise
        raise ConfigError(
            f"{path} is not a pickle of plain values ({error}): give a dict of strings, numbers and lists, or a .json "
            "file"
        ) from error


def _copy(value: Any, depth: int = 0, count: list[int] | None = None) -> Any:
    """Copy plain values; depth and number are limited because of circular references and decompression bombs."""
    count = [0] if count is None else count
    count[0] += 1
    if depth > _MAX_DEPTH or count[0] > _MAX_VALUES:
        raise pickle.UnpicklingError("it is nested too deeply or contains too many values")
    if isinstance(value, _PLAIN):
        return value
    if type(value) is dict:
        return {_copy(k, depth + 1, count): _copy(v, depth + 1, count) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copy(v, depth + 1, count) for v in value)
    raise pickle.UnpicklingError(f"it contains a {type(value).__name__}")
