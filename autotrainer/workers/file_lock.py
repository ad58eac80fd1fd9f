"""Locks between processes, which the operating system releases when their holder ends, however it ends."""

from __future__ import annotations

import logging
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autotrainer.errors import InputError, StateError

__all__ = ["FileLock", "check_installed"]

_POLL = 0.25
"""Seconds between two attempts."""

logger = logging.getLogger("autotrainer")


class FileLock:
    """An exclusive lock on a file: a second process, or a second thread, waits for it.

    Beside the file lies ``FILE.lock``, which says who has or had the lock. It stays there, and is harmless: the lock is
    the operating system's (``flock``). Where a file system has no such locks, the presence of a file stands in for them
    (`filelock.SoftFileLock`); then one that a killed process has left may have to be deleted by hand.

    Args:
        path: The file, which need not exist; its folder must.
        patience: Seconds to wait.

    Raises:
        StateError: If another process still holds it after that time; says who and since when.
        OSError: If ``FILE.lock`` can't be written.
    """

    def __init__(self, path: Path, patience: float) -> None:
        import filelock

        self._path = path.with_name(f"{path.name}.lock")
        try:
            self._lock = self._acquire(filelock, filelock.FileLock, path, patience)
        except NotImplementedError:  # older versions of filelock, without flock
            self._lock = self._acquire(filelock, filelock.SoftFileLock, path, patience)
        self._sign()

    def release(self) -> None:
        """Release the lock; once more does nothing."""
        with suppress(OSError):
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _acquire(self, filelock: Any, kind: Any, path: Path, patience: float) -> Any:
        lock = kind(self._path, thread_local=False)
        holder = self._holder()
        with suppress(filelock.Timeout):
            lock.acquire(timeout=0)
            return lock
        if patience:
            logger.warning("%s is in use by %s; waiting up to %.0f s for it", path, holder, patience)
        try:
            lock.acquire(timeout=patience, poll_interval=_POLL)
        except filelock.Timeout as error:
            raise StateError(
                f"{path} is in use by {holder}: wait until that ends or stop it, or give another log_dir"
            ) from error
        return lock

    def _holder(self) -> str:
        with suppress(OSError):
            return " ".join(self._path.read_text("utf-8", "replace")[:200].split()) or "another process"
        return "another process"

    def _sign(self) -> None:
        """Write who holds the lock, unless the file has a content that filelock needs."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with suppress(OSError):
            if self._holder().startswith(("process ", "another process")):
                self._path.write_text(f"process {os.getpid()} on {platform.node()} since {since}\n", "utf-8")


def check_installed() -> None:
    """Check that the library filelock is installed.

    Raises:
        InputError: If it is not.
    """
    try:
        import filelock  # noqa: F401
    except ImportError as error:
        raise InputError(
            "log_dir needs filelock, so that no two processes write to one journal: pip install 'filelock>=3.12', or "
            "leave log_dir out"
        ) from error
