"""The run logs to follow: given files, and those in folders, also ones that appear later."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from autotrainer.errors import InputError
from autotrainer.monitoring.logs.log_reader import read_log
from autotrainer.records.json_lines import NoLineError
from autotrainer.view.followed_run import FollowedRun, MakeRules

__all__ = ["RunFolder"]

MAX_RUNS = 50
"""Runs that are followed, the latest: each holds a history of up to some ten megabytes."""

_SCAN_EVERY = 2.0
"""Seconds between two looks for new logs."""


class RunFolder:
    """Follows the logs of several runs.

    Args:
        paths: Logs, and folders: their logs, and those in their subfolders, are followed.
        make_rules: Returns new rule objects.

    Attributes:
        paths: The paths.
        runs: The runs by number, in the order in which they were found.
        left_out: Number of older logs that are not followed.

    Raises:
        InputError: If a path does not exist.
        LogError: If a file is not a run log.
    """

    def __init__(self, paths: Sequence[str | Path], make_rules: MakeRules) -> None:
        self.paths = [Path(path) for path in paths]
        self._make_rules = make_rules
        self.runs: dict[int, FollowedRun] = {}
        self.left_out = 0
        self._numbers: dict[Path, int] = {}
        self._next_scan = 0.0
        for path in self.paths:
            if not path.exists():
                raise InputError(f"there is no {path}: pass run logs, or a folder that watch(log_dir=…) writes to")
            if not path.is_dir():
                with suppress(StopIteration, NoLineError):  # it has just been begun
                    next(read_log(path))

    def update(self, seconds: float) -> bool:
        """Look for new logs and read what is new, and return whether nothing is left to read.

        Args:
            seconds: Time that this may take, about; the rest is read next time.
        """
        until = time.perf_counter() + seconds
        if time.perf_counter() >= self._next_scan:
            self._scan()
            self._next_scan = time.perf_counter() + _SCAN_EVERY
        # Those with the least left first, so that no run that goes on waits for an old, long log.
        shortest = sorted(self.runs.values(), key=lambda run: run.bytes_left)
        return not [run for run in shortest if not run.read(until)]

    def latest_first(self) -> list[FollowedRun]:
        """Return the runs, the one written last first."""
        return sorted(self.runs.values(), key=lambda run: (run.modified, run.name), reverse=True)

    def number_of(self, run: FollowedRun) -> int:
        """Return the number of a run."""
        return self._numbers[run.path]

    def _scan(self) -> None:
        several = len(self.paths) > 1
        names: dict[Path, str] = {}
        for root in self.paths:
            if not root.is_dir():
                names.setdefault(root, _name(root if several else Path(root.name)))
                continue
            for path in _logs_in(root):
                names.setdefault(path, _name(path if several else path.relative_to(root)))
        latest = sorted(names, key=_last_written, reverse=True)[:MAX_RUNS]
        self.left_out = len(names) - len(latest)
        self.runs = {number: run for number, run in self.runs.items() if run.path in latest}
        for path in sorted(latest):
            number = self._numbers.setdefault(path, len(self._numbers) + 1)
            if number not in self.runs:
                self.runs[number] = FollowedRun(path, names[path], self._make_rules)


def _name(path: Path) -> str:
    return str(path).removesuffix(".jsonl")


def _logs_in(folder: Path) -> Iterator[Path]:
    """Yield the run logs of a folder and of its subfolders; one that can't be listed has none."""
    inner = []
    with suppress(OSError), os.scandir(folder) as entries:
        inner = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for each in (folder, *inner):
        with suppress(OSError):
            yield from each.glob("run-*.jsonl")


def _last_written(path: Path) -> tuple[float, str]:
    with suppress(OSError):
        return path.stat().st_mtime, str(path)
    return 0.0, str(path)
