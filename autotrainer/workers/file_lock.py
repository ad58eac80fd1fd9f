"""Locks between processes, which the operating system releases when their holder ends, however it ends."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from autotrainer.errors import InputError, StateError
from autotrainer.output import logger

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["FileLock", "check_installed"]

_POLL = 0.25
"""Seconds between two attempts."""


class FileLock:
    """An exclusive lock on a file: a second process, or a second thread, waits for it.

    The lock is the operating system's (``flock``) on ``FILE.lock``, which stays and is harmless. ``FILE.holder`` says
    who holds it. Where a file system has no such locks, the presence of a file stands in for them
    (`filelock.SoftFileLock`): after a process was killed on another computer, it must be deleted by hand.

    Args:
        path: The file, which need not exist; its folder must.
        patience: Seconds to wait.

    Raises:
        StateError: If another process still holds it after that time; says who and since when.
        OSError: If the lock can't be written.
    """

    def __init__(self, path: Path, patience: float) -> None:
        import filelock

        self._process = os.getpid()
        self._path = path
        self._text = path.with_name(f"{path.name}.holder")
        try:
            self._lock = self._acquire(filelock.FileLock(f"{path}.lock", thread_local=False), patience)
        except NotImplementedError:  # no flock; later versions of filelock turn to such files by themselves
            self._lock = self._acquire(filelock.SoftFileLock(f"{path}.softlock", thread_local=False), patience)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with suppress(OSError):
            self._text.write_text(f"process {os.getpid()} on {platform.node()} since {since}\n", "utf-8")

    def release(self) -> None:
        """Release the lock; once more does nothing, nor does it in a forked child, whose parent holds the lock."""
        if self._process == os.getpid() and self._lock.is_locked:
            with suppress(OSError):
                self._text.unlink()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _acquire(self, lock: BaseFileLock, patience: float) -> BaseFileLock:
        from filelock import SoftFileLock, Timeout

        with suppress(Timeout):
            lock.acquire(timeout=0)
            return lock
        holder = _content(self._text) or "another process"
        if patience:
            logger.warning("%s is in use by %s; waiting up to %.0f s", self._path, holder, patience)
        try:
            lock.acquire(timeout=patience, poll_interval=_POLL)
        except Timeout as error:
            stands_in = isinstance(lock, SoftFileLock) or _content(Path(lock.lock_file))
            by_hand = f"; if it has ended, delete {lock.lock_file}" if stands_in else ""
            raise StateError(
                f"{self._path} is in use by {holder}: wait until that ends or stop it, or give another log_dir{by_hand}"
            ) from error
        return lock


def _content(path: Path) -> str:
    """Return the beginning of a text file as one line; empty if there is none."""
    with suppress(OSError):
        if path.is_file():
            return " ".join(path.read_bytes()[:200].decode("utf-8", "replace").split())
    return ""


def check_installed() -> None:
    """Check that the library filelock is installed.

    Raises:
        InputError: If it is not.
    """
    try:
        import filelock  # noqa: F401
    except ImportError as error:
        raise InputError(
            "log_dir needs filelock, so that no two processes write to one journal: pip install 'filelock>=3.30', or "
            "leave log_dir out"
        ) from error
