"""One run log that is followed: what it holds so far, and how the run is doing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autotrainer.api.replay import RecordedRun
from autotrainer.errors import LogError
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.logs.log_reader import LogFollower
from autotrainer.records.findings import Finding
from autotrainer.reporting.report import Report
from autotrainer.rule import Rule

__all__ = ["SILENT_AFTER", "FollowedRun", "State"]

State = Literal["waiting", "reading", "running", "silent", "finished", "interrupted", "unreadable"]

SILENT_AFTER = 60.0
"""Seconds without news after which a run that has recorded no end may have crashed; it may also be between samples."""

MakeRules = Callable[[], Sequence[Rule]]


@dataclass(slots=True)
class _File:
    """What is known of the file: which one it is, its size in bytes, and when it was last written."""

    identity: tuple[int, int] = (0, 0)
    size: int = 0
    modified: float = 0.0


@dataclass
class FollowedRun:
    """A run whose log is read as it grows; the rules are evaluated where the run did.

    Args:
        path: The log.
        name: Name to show.
        make_rules: Returns new rule objects.
        clock: Returns the time in seconds since the epoch.

    Attributes:
        version: Changes whenever there is something new to show.
        error: Why the log can't be read; empty if it can.
    """

    path: Path
    name: str
    make_rules: MakeRules
    clock: Callable[[], float] = time.time
    version: int = 0
    error: str = ""
    _file: _File = field(default_factory=_File)
    _shown: State = "waiting"
    _report: tuple[int, Report] | None = None

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._log = LogFollower(self.path)
        self._engine = Engine(self.make_rules())
        self.run = RecordedRun(self._engine)
        self.error = ""

    def read(self, until: float) -> bool:
        """Read what is new, and return whether nothing is left.

        Args:
            until: `time.perf_counter` at which to stop, after a record; the rest is read next time.
        """
        found = self._find()
        if found != self._file:
            is_new = found.identity != self._file.identity or found.size < self._log.end
            if is_new or (self.error and not self._log.end):  # the right to read it may have come
                self._begin()
            self._file = found
            self.version += 1
        elif self._log.incomplete or self._log.end == found.size:
            self._note_state()
            return True
        if self.error:
            return True
        try:
            if found.identity != (0, 0):
                for record in self._log.read():
                    self.run.add(record)
                    if time.perf_counter() >= until:
                        self.version += 1
                        return False
        except LogError as error:
            self.error = str(error)
        self.version += 1
        self._note_state()
        return True

    def _find(self) -> _File:
        try:
            status = os.stat(self.path)
        except OSError:  # removed, or not yet there
            return _File()
        return _File((status.st_dev, status.st_ino), status.st_size, status.st_mtime)

    def _note_state(self) -> None:
        if self.state != self._shown:
            self._shown = self.state
            self.version += 1

    @property
    def bytes_left(self) -> int:
        """Bytes of the log that have not been read, as far as is known."""
        return self._file.size - self._log.end

    @property
    def share_read(self) -> float:
        """Share of the log that has been read, in [0, 1]."""
        return min(1.0, self._log.end / self._file.size) if self._file.size else 1.0

    @property
    def modified(self) -> float:
        """When the log was last written, in seconds since the epoch."""
        return self._file.modified

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the log was last written."""
        return max(0.0, self.clock() - self._file.modified)

    @property
    def state(self) -> State:
        """How the run is doing, as far as its log shows."""
        if self.error:
            return "unreadable"
        if self._log.end < self._file.size and not self._log.incomplete:
            return "reading"
        if self.run.ended:
            return "finished" if self.run.history.finished else "interrupted"
        if not self._log.end:
            return "waiting"
        return "silent" if self.quiet_seconds > SILENT_AFTER else "running"

    @property
    def state_text(self) -> str:
        """The state in two or three words."""
        match self.state:
            case "reading":
                return f"reading: {self.share_read:.0%}"
            case "silent":
                return f"no news for {_duration(self.quiet_seconds)}"
            case state:
                return state

    @property
    def state_hint(self) -> str:
        """What else there is to say about the state; empty for most."""
        match self.state:
            case "waiting":
                return "Nothing is recorded yet."
            case "silent" if self._log.incomplete:
                return "The log breaks off within a line: the run has crashed or was killed."
            case "silent":
                return "The run has recorded no end: it may have crashed, or be between two samples."
            case "interrupted":
                return "An exception or a signal ended the run."
            case "unreadable":
                return self.error
            case _:
                return ""

    @property
    def findings(self) -> list[Finding]:
        """The findings where the run evaluated the rules last; also at its end, if it recorded none and is silent."""
        engine = self._engine
        if self.state == "silent" and self.run.history.changes:
            engine = Engine(self.make_rules())
            engine.restore(*self._engine.episodes)
            engine.evaluate(self.run.history, self.run.context)
        return self.run.located(engine.findings)

    @property
    def report(self) -> Report:
        """The report of the run so far."""
        if self._report is None or self._report[0] != self.version:
            self._report = self.version, Report.of_run(self.findings, self.run.history, self.run.context)
        return self._report[1]


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
