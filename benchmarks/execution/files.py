"""Output files of a run: checked before the run that they can be written, not after hours."""

from __future__ import annotations

from pathlib import Path

from autotrainer.errors import ConfigError

__all__ = ["require_writable", "write"]


def require_writable(path: Path) -> None:
    """Check that a file can be written; its contents stay.

    Raises:
        ConfigError: If it can't.
    """
    existed = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None


def write(path: Path, text: str) -> None:
    """Write a text file, creating its folders.

    Raises:
        ConfigError: If it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
