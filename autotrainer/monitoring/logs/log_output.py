"""Where the records of a run go: to its log, or nowhere, or held until it is known which process reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotrainer.monitoring.guard import Guard
from autotrainer.monitoring.logs.run_log import LogWriter

__all__ = ["LogOutput"]

_PART = "the run log"


class LogOutput:
    """Takes the records of one run.

    Args:
        folder: Folder of the log; None writes no file.
        fail: Called with the part that failed and the exception; nothing is written any more then.
        hold: Whether to write nothing until `release`.
    """

    def __init__(self, folder: Path | None, fail: Callable[[str, BaseException], None], *, hold: bool) -> None:
        self._folder, self._report_failure = folder, fail
        self._held: list[dict[str, Any]] | None = [] if hold else None
        self._log: LogWriter | None = None
        self._failed = False
        self._epoch: dict[str, Any] | None = None  # the latest, if it is not written
        self._open()

    @property
    def wanted(self) -> bool:
        """Whether a log is to be written."""
        return self._folder is not None

    @property
    def takes(self) -> bool:
        """Whether records are written or held: making some of them takes a while."""
        return self._log is not None or self._held is not None

    @property
    def path(self) -> Path | None:
        """Path of the log, or None."""
        return self._log.path if self._log is not None else None

    def write_epoch(self, epoch: dict[str, Any], *, kept: bool) -> None:
        """Write the record of an epoch; one that the history drops with the next, only before another record."""
        self._epoch = epoch
        if kept:
            self._write_epoch()

    def _write_epoch(self) -> None:
        if self._epoch is not None:
            epoch, self._epoch = self._epoch, None
            self._append(epoch)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record, or hold it."""
        self._write_epoch()
        self._append(record)

    def _append(self, record: dict[str, Any]) -> None:
        if self._held is not None:
            self._held.append(record)
        elif self._log is not None and not self._failed:
            with Guard(self._fail, _PART):
                self._log.write(record)

    def release(self) -> None:
        """Write what was held, and all from now on."""
        held, self._held = self._held, None
        self._open()
        for record in held or ():
            self._append(record)

    def drop(self) -> None:
        """Write nothing more: another process does. Nothing is in a buffer."""
        log, self._log, self._folder, self._held = self._log, None, None, None
        if log is not None:
            log.close()

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            with Guard(self._fail, _PART):
                self._log.close()

    def _open(self) -> None:
        if self._folder is not None and self._log is None and self._held is None:
            try:
                self._log = LogWriter(self._folder)
            except OSError as error:
                self._folder = None
                self._fail(_PART, error)

    def _fail(self, part: str, error: BaseException) -> None:
        self._failed = True
        self._report_failure(part, error)
