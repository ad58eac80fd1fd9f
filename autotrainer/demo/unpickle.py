"""Reads pickles of plain values, and nothing else: no class of anybody is ever built."""

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
    """Stands for ``numpy.dtype``: the type of one number, whatever the pickle says besides."""

    def __init__(self, kind: str, *_: Any) -> None:
        self.kind, self.order = str(kind), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])

    def numpy(self) -> np.dtype[Any]:
        dtype = np.dtype(self.kind)
        if dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"numpy type {self.kind!r} is no number")
        return dtype.newbyteorder(">") if self.order == ">" else dtype


def _scalar(dtype: _NumberType, data: bytes) -> Any:
    """Stands for ``numpy.core.multiarray.scalar``; returns a number of Python."""
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
            raise ConfigError(f"it refers to {module}.{name}, which is refused") from None


def load_plain(path: str | Path) -> Any:
    """Read a pickle that holds only dict, list, tuple, str, numbers, None and NumPy numbers.

    Args:
        path: The file, of at most 1 MB.

    Returns:
        The value, with numbers of Python in place of those of NumPy.

    Raises:
        ConfigError: If it can't be read or holds anything else; names the first global that is refused.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise pickle.UnpicklingError(f"it has more than {_MAX_BYTES:,} bytes")
        return _copy(_PlainUnpickler(io.BytesIO(content), encoding="latin1").load())
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}; give the configuration's file") from error
    except Exception as error:  # whatever a damaged or hostile pickle makes the unpickler raise
        raise ConfigError(
            f"{path} is no pickle of plain values ({error}); give a dict of str, numbers, lists, or a .json file"
        ) from error


def _copy(value: Any, depth: int = 0, count: list[int] | None = None) -> Any:
    """Copy plain values; depth and number are limited, so that no reference to itself and no bomb gets through."""
    count = [0] if count is None else count
    count[0] += 1
    if depth > _MAX_DEPTH or count[0] > _MAX_VALUES:
        raise pickle.UnpicklingError("it is nested too deeply or holds too much")
    if isinstance(value, _PLAIN):
        return value
    if type(value) is dict:
        return {_copy(k, depth + 1, count): _copy(v, depth + 1, count) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copy(v, depth + 1, count) for v in value)
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
