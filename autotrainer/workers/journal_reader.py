"""Reads journals of fits, and finds the one to continue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from autotrainer.errors import ConfigError
from autotrainer.records.json_lines import Line, LineFormat, NoLineError, read_lines
from autotrainer.records.schema import RecordError, rebuild
from autotrainer.workers.trial_codec import Work, check_record

__all__ = ["JOURNAL", "ScoreEntry", "TrainingEntry", "last_journal", "read_journal"]

JOURNAL = LineFormat(
    "journal of a fit", "autotrainer_fit", 3, "leave resume=True out, or give another log_dir", longest=2**30
)
"""Journals of earlier formats are not read: they belong to another version, which the request names, too."""


def _seconds(value: Any) -> float:
    seconds = rebuild(float, value)
    if not 0 <= seconds < math.inf:
        raise RecordError(f"a number of seconds expected, not {seconds}")
    return seconds


@dataclass(frozen=True, slots=True)
class _Header:
    request: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str


@dataclass(frozen=True, slots=True)
class ScoreEntry:
    """The test score of the baseline training."""

    score: float


@dataclass(frozen=True, slots=True)
class TrainingEntry:
    """What the budget knew at the end of a training: the seconds so far, and its unit or None."""

    seconds: Annotated[float, _seconds]
    unit: Work | None


def read_journal(path: Path) -> tuple[dict[str, dict[str, Any]], Line]:
    """Return the records of a journal by key, each checked, and its last line.

    Raises:
        LogError: If it is damaged.
    """
    records: dict[str, dict[str, Any]] = {}
    with closing(read_lines(path, JOURNAL)) as lines:
        last = next(lines)
        for line in lines:
            last = line
            try:
                key = rebuild(_Entry, line.record).key
                if key in records:
                    raise RecordError("key: the same training is recorded twice")
                if key == "test":
                    rebuild(ScoreEntry, line.record)
                else:
                    rebuild(TrainingEntry, line.record)
                    check_record(line.record)
            except RecordError as error:
                raise line.damaged(error) from error
            records[key] = line.record
    return records, last


def _header(path: Path) -> dict[str, str] | None:
    """Return the request of a journal, or None if it is empty or a crash has cut its first line."""
    with suppress(NoLineError), closing(read_lines(path, JOURNAL)) as lines:
        line = next(lines)
        try:
            return rebuild(_Header, line.record).request
        except RecordError as error:
            raise line.damaged(error) from error
    return None


def last_journal(folder: Path, request: dict[str, str]) -> Path | None:
    """Return the last journal of the same request, or None if the folder has no journal at all.

    Raises:
        ConfigError: If there are only journals of other requests.
        LogError: If one can't be read, or is damaged.
    """
    paths = sorted(folder.glob("fit-*.jsonl"), key=_age, reverse=True)
    others = []
    for path in paths:
        header = _header(path)
        if header == request:
            return path
        if header is not None:
            others.append((path, header))
    if not others:
        return None
    path, header = others[0]
    names = [name for name in dict.fromkeys((*request, *header)) if request.get(name) != header.get(name)]
    raise ConfigError(
        f"resume=True: {path} is the journal of another fit: "
        f"{', '.join(_difference(n, request, header) for n in names)}. Pass the same arguments as then, or leave "
        "resume out to start again"
    )


def _age(path: Path) -> tuple[int, str]:
    with suppress(OSError):
        return path.stat().st_mtime_ns, path.name
    return 0, path.name


def _difference(name: str, request: Mapping[str, str], header: Mapping[str, str]) -> str:
    new, old = (values.get(name, "missing") for values in (request, header))
    if "digest" in new + old:
        return f"{name} is not the same"
    return f"{name} is {new}, recorded {old}"
