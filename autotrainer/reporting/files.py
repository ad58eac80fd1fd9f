"""Writing files: new names that never collide, and replacement only by a complete file."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from autotrainer.errors import InputError

__all__ = ["new_file", "write_atomic"]


def new_file(folder: str | Path, kind: str) -> TextIO:
    """Open a new file to append lines to: ``KIND-TIME-PROCESS-NUMBER.jsonl``.

    Args:
        folder: The folder; created if missing.
        kind: Prefix of the file's name.

    Raises:
        OSError: If the folder or the file can't be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(10_000):
        with suppress(FileExistsError):
            return (folder / f"{kind}-{stamp}-{os.getpid()}-{number}.jsonl").open("x", encoding="utf-8")
    raise FileExistsError(f"no free name for a {kind} file in {folder}")


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a file; an existing one is replaced only once the new one is complete.

    Args:
        path: The file; missing folders are created.
        content: Text, written as UTF-8, or bytes.

    Returns:
        The path.

    Raises:
        InputError: If it can't be written.
    """
    path = Path(path)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"can't write {path}: {error.strerror or error}; choose a writable path") from error
    return path
