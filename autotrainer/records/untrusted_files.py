"""Opening files of unknown origin: regular ones only, of limited size, and JSON without repeated keys."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from typing import Any

__all__ = ["open_regular", "read_regular", "unique_keys"]


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file, and nothing that could block or never end, such as a pipe or a device.

    Raises:
        OSError: If it can't be opened.
        TypeError: If it is not a string or path.
        ValueError: If it is not a regular file, or no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a path is needed, not {type(path).__name__}")
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - returned open
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is not a regular file")
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes; raises what `open_regular` raises.

    Raises:
        ValueError: If it is larger.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return content


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, as an ``object_pairs_hook``: of two equal keys, readers would take either.

    Raises:
        ValueError: If a key is repeated.
    """
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r:.100} appears twice in one object")
        values[key] = value
    return values
