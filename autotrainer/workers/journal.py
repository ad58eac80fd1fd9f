"""The journal of one `fit`: every ended training, on disk before the next begins; a later call resumes from it.

One file of JSON lines. The first is a header that identifies the request; each further line is a training that has
ended, keyed by its recipe. It holds statistics and scores of validation rows (predictions, if the metric compares
those): never samples or targets, and no weights, since a training can be rerun exactly.
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
from autotrainer.workers.trial_codec import decode_object, from_record, to_line, to_record

__all__ = ["Journal", "identity", "versions"]

FORMAT = 2
_MARK = {"autotrainer_fit": FORMAT}
_MAX_PLAIN = 60
"""Characters of an option's value up to which the header shows it as it is, rather than as a digest."""

logger = logging.getLogger("autotrainer")


class Journal:
    """Records the trainings of one `fit`. An error of the file ends the recording with a warning, never the training.

    Args:
        folder: Where to write; created if missing.
        request: Identifies the request, by name: see `identity`.
        resume: Whether to continue the last journal of the same request in the folder.

    Raises:
        ConfigError: If the folder has journals, but none of the same request; names the differences from the last one.
        LogError: If the journal is damaged before its last line.
    """

    def __init__(self, folder: str | Path, request: Mapping[str, str], *, resume: bool) -> None:
        self._records: dict[str, dict[str, Any]] = {}
        self._file: TextIO | None = None
        self._process = os.getpid()
        path = _last(Path(folder), request) if resume else None
        try:
            if path is not None:
                self._resume(path)
            else:
                self._file = new_file(folder, "fit")
                self._write({**_MARK, "request": dict(request)})
        except OSError as error:
            self._stop(error)

    def find(self, spec: TrainingSpec, until: int | None, budget: Budget) -> Trial | Failure | None:
        """Return a recorded training, and advance the budget to the time at which it ended.

        Args:
            spec: Its recipe.
            until: Number of epochs after which it was to end, or None.
            budget: The budget.

        Returns:
            Its outcome, without a model; None if it is not recorded.
        """
        record = self._records.get(_key(spec, until))
        if record is None:
            return None
        budget.advance(record["seconds"])
        if record["unit"] is not None:
            budget.measure(record["unit"])
        return from_record(record, spec)

    def has(self, spec: TrainingSpec, until: int | None) -> bool:
        """Return whether a training is recorded."""
        return _key(spec, until) in self._records

    def add(self, spec: TrainingSpec, until: int | None, outcome: Trial | Failure, budget: Budget) -> None:
        """Record a training that has ended, unless it is recorded already or Ctrl-C has ended it."""
        key = _key(spec, until)
        if key in self._records or (isinstance(outcome, Trial) and outcome.interrupted):
            return
        self._add({"key": key, "unit": budget.unit, "seconds": budget.seconds, **to_record(outcome)})

    def test_score(self) -> float | None:
        """Return the recorded test score of the baseline training, or None."""
        return self._records.get("test", {}).get("score")

    def add_test_score(self, score: float | None) -> None:
        """Record the test score of the baseline training."""
        if score is not None and "test" not in self._records:
            self._add({"key": "test", "score": score})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _resume(self, path: Path) -> None:
        records = list(_read(path))
        self._records = {record["key"]: record for record in records[1:]}
        lines = path.read_bytes().split(b"\n")
        complete = sum(len(line) + 1 for line in lines[: len(records)])
        if complete < path.stat().st_size:  # a crash has cut the last line
            os.truncate(path, complete)
        self._file = path.open("a", encoding="utf-8")
        logger.info("%s: resuming after %d records", path, len(self._records))

    def _add(self, record: dict[str, Any]) -> None:
        self._records[record["key"]] = record
        try:
            self._write(record)
        except OSError as error:
            self._stop(error)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None and self._process == os.getpid():  # a forked child leaves the file to its parent
            self._file.write(to_line(record))
            self._file.flush()
            os.fsync(self._file.fileno())

    def _stop(self, error: OSError) -> None:
        logger.warning("the journal for resume=True can't be written and ends here: %s", error)
        self.close()


def identity(**parts: Any) -> dict[str, str]:
    """Return the identity of a request by name: short plain values as they are, everything else as a digest."""
    return {name: _plain_or_digest(value) for name, value in parts.items()}


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of everything that a result depends on.

    Args:
        *packages: Names of the framework's packages.
    """
    by_package = {"autotrainer": __version__, "python": platform.python_version(), "numpy": np.__version__}
    by_package |= {name: str(getattr(sys.modules.get(name), "__version__", "unknown")) for name in packages}
    with suppress(PackageNotFoundError):  # the sampler, if it is installed
        by_package["optuna"] = version("optuna")
    return by_package


def _plain_or_digest(value: Any) -> str:
    plain = isinstance(value, bool | int | float | str | type(None))
    plain |= isinstance(value, tuple) and all(isinstance(entry, str) for entry in value)
    text = repr(value) if plain else ""
    return text if plain and len(text) <= _MAX_PLAIN else f"digest {digest(value)}"


def _key(spec: TrainingSpec, until: int | None) -> str:
    edits = [edit.to_dict() for edit in spec.edits]
    return to_line(
        {"epochs": spec.epochs, "seed": spec.seed, "until": until, "start": spec.start, "edits": edits}
    ).strip()


def _read(path: Path) -> Iterator[dict[str, Any]]:
    return read_lines(path, "journal of a fit", _MARK, "leave resume=True out, or give another log_dir", decode_object)


def _last(folder: Path, request: Mapping[str, str]) -> Path | None:
    """Return the last journal of the same request, or None if the folder has no journal at all.

    Raises:
        ConfigError: If there are only journals of other requests.
    """
    paths = sorted(folder.glob("fit-*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    others = []
    for path in paths:
        with path.open("rb") as file:
            has_header = file.readline().endswith(b"\n")
        if has_header:
            header = next(iter(_read(path)))["request"]
            if header == dict(request):
                return path
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


def _difference(name: str, request: Mapping[str, str], header: Mapping[str, str]) -> str:
    new, old = (values.get(name, "missing") for values in (request, header))
    if "digest" in new + old:
        return f"{name} is not the same"
    return f"{name} is {new}, recorded {old}"
