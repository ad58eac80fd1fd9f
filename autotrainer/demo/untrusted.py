"""Files of unknown origin: reading with a limit, plain values within bounds, and errors in one short line."""

from __future__ import annotations

from typing import Any

from autotrainer.errors import AutotrainerError, InputError
from autotrainer.safe_text import escaped

__all__ = ["MAX_BYTES", "brief", "plain"]

MAX_BYTES = 1_000_000
"""Maximum size of a configuration."""

_MAX_DEPTH = 30
_MAX_SIZE = 1_000_000
_MAX_INTEGER = 2**63
_MAX_LINE = 300


def plain(value: Any) -> Any:
    """Copy a value that consists only of dict, list, tuple, str, numbers and None.

    The copy is limited in depth and size, since references can repeat and contain each other.

    Raises:
        InputError: If it contains anything else, or exceeds a limit.
    """
    return _Copy().copy(value, 0)


class _Copy:
    def __init__(self) -> None:
        self._size = 0

    def copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        self._size += 10 + (len(value) if kind is str else 0)
        if depth > _MAX_DEPTH or self._size > _MAX_SIZE:
            raise InputError("it is nested too deeply or contains too many values")
        if kind is int and abs(value) >= _MAX_INTEGER:
            raise InputError("it contains an integer of more than 64 bits")
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is dict:
            return {self._key(key, depth): self.copy(entry, depth + 1) for key, entry in value.items()}
        if kind in (list, tuple):
            return kind(self.copy(entry, depth + 1) for entry in value)
        raise InputError(f"it contains a {kind.__name__}")

    def _key(self, key: Any, depth: int) -> str:
        if type(key) is not str:
            raise InputError(f"it has a key of type {type(key).__name__}, not str")
        self.copy(key, depth + 1)
        return key


def brief(error: BaseException) -> str:
    """Return the message of an error in one line of printable characters, shortened."""
    text = str(error) if isinstance(error, AutotrainerError) else f"{type(error).__name__}: {error}"
    line = escaped(" ".join(text.split()))
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…"
