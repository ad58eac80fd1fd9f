"""Files that a run leaves: whether they can be written is asked before it, not after hours."""

from __future__ import annotations

from pathlib import Path

from autotrainer.errors import ConfigError

__all__ = ["require_writable", "write"]


def require_writable(path: Path) -> None:
    """Make sure that a file can be written; what it holds stays.

    Raises:
        ConfigError: If it can't.
    """
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None


def write(path: Path, text: str) -> None:
    """Write a text file, and the folders that it lies in.

    Raises:
        ConfigError: If it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
