"""Records rebuilt from JSON values, strictly: each value must fit the type of its field.

A record is a dataclass whose fields have types of this vocabulary: ``bool``, ``int``, ``float``, ``str``, enumerations,
``Literal``, ``X | None``, ``tuple[X, ...]``, ``list[X]``, ``Mapping[str, X]`` and other records. ``Annotated`` adds the
`Bounds` of a whole number, or a function that rebuilds the value.

Fields of later versions are ignored, and those that earlier versions lack keep their defaults.
"""

from __future__ import annotations

import base64
import binascii
import math
import reprlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import Floats

__all__ = ["Bounds", "Count", "PackedArray", "RecordError", "Row", "Table", "pack", "plain", "rebuild", "unpack"]

T = TypeVar("T")

_NONFINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class RecordError(ValueError):
    """A value that does not fit the type of its field; `autotrainer.errors.LogError` then names file and line."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The whole numbers from ``least`` to ``most`` that a field accepts."""

    least: int = -(2**53)
    most: int = 2**53


Count = Annotated[int, Bounds(0)]


@dataclass(frozen=True, slots=True)
class PackedArray:
    """An array of 8-byte numbers in a JSON value: its shape, and its bytes (little-endian) by zlib and base64."""

    shape: tuple[Count, ...]
    data: str


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """Return the JSON value of a `PackedArray` that holds an array of 8-byte numbers."""
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return {"shape": list(array.shape), "data": base64.b64encode(zlib.compress(data)).decode("ascii")}


def unpack(packed: PackedArray, kind: type[np.float64] | type[np.int64], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a packed array.

    Args:
        packed: The array.
        kind: Type of its numbers.
        shape: Its shape; no more memory is taken, whatever the data claim.

    Raises:
        RecordError: If it has another shape, or the data are damaged.
    """
    if packed.shape != shape:
        raise RecordError(f"an array of shape {shape} expected, not {packed.shape}")
    size = 8 * math.prod(shape)
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(packed.data, validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error):
        data = b""
    if len(data) != size:
        raise RecordError("the data of an array are damaged")
    return np.frombuffer(data, np.dtype(kind).newbyteorder("<")).astype(kind).reshape(shape)


def plain(value: Any) -> Any:
    """Return a value for JSON: arrays as lists, numbers that are not finite as None (NaN) or a string."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else (None if np.isnan(value) else "inf")
    return value


def rebuild(kind: type[T], value: Any) -> T:
    """Rebuild a record.

    Args:
        kind: Its class, or any other type of the vocabulary.
        value: What `json.loads` returned. Numbers that are not finite are ``null`` (NaN) or strings (``"inf"``).

    Raises:
        RecordError: If a value does not fit the type of its field, or one is missing; says which.
    """
    hint: Any = kind
    rebuilt: T = _rebuilder(hint)(value)
    return rebuilt


@cache
def _rebuilder(hint: Any) -> Callable[[Any], Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner, mark = arguments
        return (lambda value: _whole(value, mark)) if isinstance(mark, Bounds) else mark
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        rebuild_inner = _rebuilder(inner)
        return lambda value: None if value is None else rebuild_inner(value)
    if origin is Literal:
        return lambda value: _one_of(value, arguments)
    if origin in (tuple, list):
        element = _rebuilder(arguments[0])
        return lambda value: origin(_numbered(element, _list(value)))
    if origin is not None and issubclass(origin, Mapping):
        entry = _rebuilder(arguments[1])
        return lambda value: {name: _named(entry, name, v) for name, v in _object(value).items()}
    if is_dataclass(hint):
        return _record_rebuilder(hint)
    if issubclass(hint, Enum):
        return lambda value: hint(_one_of(value, tuple(member.value for member in hint)))
    simple: Mapping[Any, Callable[[Any], Any]] = {bool: _bool, int: _whole, float: _number, str: _text}
    return simple[hint]


def _record_rebuilder(cls: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(cls, include_extras=True)
    parts = {field.name: _rebuilder(hints[field.name]) for field in fields(cls)}
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]

    def rebuild_record(value: Any) -> Any:
        values = _object(value)
        for name in required:
            if name not in values:
                raise RecordError(f"{name} is missing")
        return cls(**{name: _named(part, name, values[name]) for name, part in parts.items() if name in values})

    return rebuild_record


def _named(part: Callable[[Any], Any], name: str, value: Any) -> Any:
    try:
        return part(value)
    except RecordError as error:
        raise RecordError(f"{reprlib.repr(name)[1:-1]}: {error}") from None


def _numbered(part: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    return [_named(part, str(number), value) for number, value in enumerate(values)]


def _refuse(value: Any, expected: str) -> RecordError:
    return RecordError(f"{expected} expected, not {reprlib.repr(value)}")


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _refuse(value, "an object")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise _refuse(value, "a list")
    return value


def _one_of(value: Any, options: tuple[Any, ...]) -> Any:
    if type(value) is not str or value not in options:
        raise _refuse(value, f"one of {', '.join(options)}")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _refuse(value, "true or false")
    return value


def _whole(value: Any, bounds: Bounds = Bounds()) -> int:
    if type(value) is not int or not bounds.least <= value <= bounds.most:
        raise _refuse(value, f"a whole number from {bounds.least} to {bounds.most}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _refuse(value, "a string")
    return value


def _number(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) <= 2**63:
        return float(value)
    if value is None:
        return math.nan
    if type(value) is str and value in _NONFINITE:
        return _NONFINITE[value]
    raise _refuse(value, "a number")


def _row(value: Any) -> Floats:
    return np.array([_number(entry) for entry in _list(value)], np.float64)


def _table(value: Any) -> Floats:
    rows = [_row(row) for row in _list(value)]
    if len({len(row) for row in rows}) > 1:
        raise _refuse(value, "rows of the same length")
    return np.stack(rows) if rows else np.zeros((0, 0))


Row = Annotated[Floats, _row]
"""Numbers, as an array of shape (numbers,)."""

Table = Annotated[Floats, _table]
"""Rows of numbers of the same length, as an array of shape (rows, numbers); (0, 0) without any row."""
