"""The record of one `fit`: every ended training, on disk before the next begins, and what a later call takes from it.

One file of JSON lines. The first is the header with what tells this request from others; each further one is a
training that has ended, by its recipe. It holds statistics, and scores of validation rows (predictions, where the
metric can only be compared by them): never samples or targets, and no weights, since a training can be run again to
the bit.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from autotrainer._version import __version__
from autotrainer.adapter.spec import TrainingSpec
from autotrainer.errors import ConfigError
from autotrainer.monitoring.run_log import read_lines
from autotrainer.reporting.files import new_file
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Failure, Trial
from autotrainer.workers.fingerprint import digest
from autotrainer.workers.trial_codec import outcome_of, rebuilt, to_line, to_record

__all__ = ["Journal", "identity", "versions"]

FORMAT = 2
_MARK = {"autotrainer_fit": FORMAT}
_SHORT = 60
"""Longest text of an option that a record shows as it is."""

logger = logging.getLogger("autotrainer")


class Journal:
    """What is recorded of one `fit`. Trouble with the file ends the recording with a warning, never the training.

    Args:
        folder: Where to write; created if missing.
        request: What tells this request from others, by name: see `identity`.
        resume: Whether to go on with the last record of the same request in the folder.

    Raises:
        ConfigError: If the folder has records, but none of the same request; says what differs from the last one.
        LogError: If the record is damaged before its last line.
    """

    def __init__(self, folder: str | Path, request: Mapping[str, str], *, resume: bool) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        self._file: TextIO | None = None
        path = _last(Path(folder), request) if resume else None
        try:
            if path is not None:
                self._go_on(path)
            else:
                self._file = new_file(folder, "fit")
                self._write({**_MARK, "request": dict(request)})
        except OSError as error:
            self._give_up(error)

    def find(self, spec: TrainingSpec, until: int | None, budget: Budget) -> Trial | Failure | None:
        """Return a training that ended in an earlier call, and tell the budget how long all took until then.

        Args:
            spec: Its recipe.
            until: Epochs after which it was to end, or None.
            budget: The budget.

        Returns:
            What came of it, without a model; None if it is not recorded.
        """
        record = self._known.get(_key(spec, until))
        if record is None:
            return None
        budget.advance(record["seconds"])
        if record["unit"] is not None:
            budget.measure(record["unit"])
        return outcome_of(record, spec)

    def has(self, spec: TrainingSpec, until: int | None) -> bool:
        """Say whether a training is recorded."""
        return _key(spec, until) in self._known

    def add(self, spec: TrainingSpec, until: int | None, outcome: Trial | Failure, budget: Budget) -> None:
        """Record a training that has ended, unless it is recorded or Ctrl-C has ended it."""
        key = _key(spec, until)
        if key in self._known or (isinstance(outcome, Trial) and outcome.interrupted):
            return
        self._add({"key": key, "unit": budget.unit, "seconds": budget.seconds, **to_record(outcome)})

    def test_score(self) -> float | None:
        """Return the recorded test score of the training as given, or None."""
        return self._known.get("test", {}).get("score")

    def add_test_score(self, score: float | None) -> None:
        """Record the test score of the training as given."""
        if score is not None and "test" not in self._known:
            self._add({"key": "test", "score": score})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _go_on(self, path: Path) -> None:
        records = list(_read(path))
        self._known = {record["key"]: record for record in records[1:]}
        lines = path.read_bytes().split(b"\n")
        good = sum(len(line) + 1 for line in lines[: len(records)])
        if good < path.stat().st_size:  # the rest of a line that a crash has cut
            os.truncate(path, good)
        self._file = path.open("a", encoding="utf-8")
        logger.info("%s: goes on after %d records", path, len(self._known))

    def _add(self, record: dict[str, Any]) -> None:
        self._known[record["key"]] = record
        try:
            self._write(record)
        except OSError as error:
            self._give_up(error)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(to_line(record))
            self._file.flush()
            os.fsync(self._file.fileno())

    def _give_up(self, error: OSError) -> None:
        logger.warning("the record for resume=True can't be written and ends here: %s", error)
        self.close()


def identity(**parts: Any) -> dict[str, str]:
    """Return what tells one request from others: short values as they are, all else by a digest."""
    return {name: _shown(value) for name, value in parts.items()}


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of everything that decides on a result.

    Args:
        *packages: Names of the packages of the framework.
    """
    found = {"autotrainer": __version__, "python": platform.python_version(), "numpy": np.__version__}
    found |= {name: str(getattr(sys.modules.get(name), "__version__", "unknown")) for name in packages}
    with suppress(PackageNotFoundError):  # where it is installed, it suggests settings
        found["optuna"] = version("optuna")
    return found


def _shown(value: Any) -> str:
    plain = isinstance(value, bool | int | float | str | type(None))
    plain |= isinstance(value, tuple) and all(isinstance(entry, str) for entry in value)
    text = repr(value) if plain else ""
    return text if plain and len(text) <= _SHORT else f"digest {digest(value)}"


def _key(spec: TrainingSpec, until: int | None) -> str:
    edits = [edit.to_dict() for edit in spec.edits]
    return to_line(
        {"epochs": spec.epochs, "seed": spec.seed, "until": until, "start": spec.start, "edits": edits}
    ).strip()


def _read(path: Path) -> Iterator[dict[str, Any]]:
    return read_lines(path, "record of a fit", _MARK, "leave resume=True out, or give another log_dir", rebuilt)


def _last(folder: Path, request: Mapping[str, str]) -> Path | None:
    """Return the last record of the same request, or None where there is none of any.

    Raises:
        ConfigError: If there are only others.
    """
    paths = sorted(folder.glob("fit-*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    others = []
    for path in paths:
        with path.open("rb") as file:
            begun = file.readline().endswith(b"\n")
        if begun:
            header = next(iter(_read(path)))["request"]
            if header == dict(request):
                return path
            others.append((path, header))
    if not others:
        return None
    path, header = others[0]
    names = [name for name in dict.fromkeys((*request, *header)) if request.get(name) != header.get(name)]
    raise ConfigError(
        f"resume=True: {path} records another fit: {', '.join(_difference(n, request, header) for n in names)}. Give "
        "the same as there, or leave resume out to begin anew"
    )


def _difference(name: str, given: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    new, old = (values.get(name, "missing") for values in (given, recorded))
    if "digest" in new + old:
        return f"{name} is not the same"
    return f"{name} is {new}, recorded {old}"
