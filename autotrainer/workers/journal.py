"""The journal of one `fit`: every ended training, on disk before the next begins; a later call resumes from it.

One file of JSON lines. The first is a header that identifies the request; each further line is a training that has
ended, keyed by its recipe. It holds statistics and scores of validation rows (predictions, if the metric compares
those): never samples or targets, and no weights, since a training can be rerun exactly.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from autotrainer._version import __version__
from autotrainer.adapter.spec import TrainingSpec
from autotrainer.errors import InputError, LogError
from autotrainer.output import logger
from autotrainer.records.json_lines import LineWriter
from autotrainer.records.schema import rebuild
from autotrainer.reporting.files import new_file
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Failure, Trial
from autotrainer.workers.file_lock import FileLock, check_installed
from autotrainer.workers.fingerprint import digest
from autotrainer.workers.journal_reader import JOURNAL, ScoreEntry, TrainingEntry, last_journal, read_journal
from autotrainer.workers.trial_codec import from_record, to_plain, to_record, to_text

__all__ = ["Journal", "identity", "versions"]

_PATIENCE = 60.0
"""Seconds to wait for a process that holds a journal: one that is being stopped when its job starts again."""
_MAX_PLAIN = 60
"""Characters of an option's value up to which the header shows it as it is, rather than as a digest."""


class Journal:
    """Records the trainings of one `fit`. An error of the file ends the recording with a warning, never the training.

    It holds the lock of its file until it is closed, so that no other process resumes a journal that is being written.
    Without ``resume`` each journal is a new file, and processes that write to one folder never wait for each other.

    Args:
        folder: Where to write; created if missing.
        request: Identifies the request, by name: see `identity`.
        resume: Whether to continue the last journal of the same request in the folder.

    Raises:
        ConfigError: If the folder has journals, but none of the same request; names the differences from the last one.
        LogError: If the journal is damaged; nothing is changed then.
        StateError: If another process does not release the journal to continue within a minute; says which one.
        InputError: If the journal to continue can't be written, or the library filelock is missing.
    """

    def __init__(self, folder: str | Path, request: Mapping[str, str], *, resume: bool) -> None:
        self._records: dict[str, dict[str, Any]] = {}
        self._writer: LineWriter | None = None
        self._lock: FileLock | None = None
        self._process = os.getpid()
        try:
            path = self._begin(Path(folder), dict(request), resume=resume)
            if path is not None:
                self._resume(path)
        except OSError as error:
            self._stop(error)
        except BaseException:
            self.close()
            raise

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
        training = rebuild(TrainingEntry, record)
        budget.advance(training.seconds)
        if training.unit is not None:
            budget.measure(training.unit)
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
        return rebuild(ScoreEntry, self._records["test"]).score if "test" in self._records else None

    def add_test_score(self, score: float | None) -> None:
        """Record the test score of the baseline training."""
        if score is not None and "test" not in self._records:
            self._add({"key": "test", "score": score})

    def close(self) -> None:
        """Close the file, and release its lock."""
        writer, self._writer = self._writer, None
        lock, self._lock = self._lock, None
        try:
            if writer is not None:
                writer.file.close()
        except OSError as error:  # each record has been synchronized: nothing is lost
            logger.info("the journal for resume=True was not closed properly: %s", error)
        finally:
            if lock is not None:
                lock.release()

    def _begin(self, folder: Path, request: dict[str, str], *, resume: bool) -> Path | None:
        """Return the journal to continue, or None after a new one has begun."""
        check_installed()
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            self._create(folder, request)
        elif (path := last_journal(folder, request)) is not None:
            return path
        else:
            with FileLock(folder / "fit", _PATIENCE):
                path = last_journal(folder, request)  # another process may have begun one at the same time
                if path is not None:
                    return path
                self._create(folder, request)
        return None

    def _create(self, folder: Path, request: dict[str, str]) -> None:
        file = new_file(folder, "fit")
        self._writer = LineWriter(file, JOURNAL)
        self._lock = FileLock(Path(file.name), 0)
        self._write({JOURNAL.mark: JOURNAL.version, "request": request})

    def _resume(self, path: Path) -> None:
        """Continue a journal, once it is read to its end."""
        try:
            self._lock = FileLock(path, _PATIENCE)
            records, last = read_journal(path)
            self._writer = LineWriter(path.open("a", encoding="utf-8"), JOURNAL, last)
        except OSError as error:
            raise InputError(
                f"resume=True: can't write {path}: {error.strerror or error}. Make it writable, or leave resume out "
                "and give another log_dir"
            ) from error
        self._records = records
        logger.info("%s: resuming after %d records", path, len(records))

    def _add(self, record: dict[str, Any]) -> None:
        try:
            plain = to_plain(record)
            self._records[record["key"]] = plain
            self._write(plain)
        except (OSError, LogError) as error:
            self._stop(error)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._writer is not None and self._process == os.getpid():  # a forked child leaves the file to its parent
            self._writer.write(to_text(record))
            os.fsync(self._writer.file.fileno())

    def _stop(self, error: Exception) -> None:
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
    return to_text({"epochs": spec.epochs, "seed": spec.seed, "until": until, "start": spec.start, "edits": edits})
