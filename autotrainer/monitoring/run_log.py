"""The run log: one JSON object per line, appended during the run and readable after a crash.

The first line is the header ``{"autotrainer_log": 1, ...}``. The others have a ``type``: ``context``, ``step``,
``losses``, ``epoch``, ``check`` (the rules were evaluated here), ``finding``, ``end``. Numbers that are not finite are
written as ``null`` (not measured) or ``"inf"`` (measured, but not finite). A log holds statistics, never samples or
targets.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from autotrainer._version import __version__
from autotrainer.errors import LogError
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Floats, StepStats
from autotrainer.records.task import TargetSummary
from autotrainer.reporting.files import new_file

__all__ = ["FORMAT", "LogWriter", "decode_step", "encode_step", "read_lines", "read_log"]

FORMAT = 1

logger = logging.getLogger("autotrainer")


class LogWriter:
    """Appends records to a new file in a folder, each at once.

    Args:
        folder: The folder; created if missing.

    Raises:
        OSError: If the folder or the file can't be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._file = new_file(folder, "run")
        self.path = Path(self._file.name)
        columns = {"step_columns": STEP_COLUMNS, "layer_columns": LAYER_COLUMNS}
        self.write({"autotrainer_log": FORMAT, "version": __version__, **columns})

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record.

        Raises:
            OSError: If it can't be written.
        """
        # Past the buffer, which a forked child would inherit, with what is in it and with its lock.
        rest = f"{json.dumps(_plain(record), separators=(',', ':'), allow_nan=False)}\n".encode()
        while rest:
            rest = rest[os.write(self._file.fileno(), rest) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read the records of a run log, the header first.

    An incomplete last line, as left by a crash, is skipped with a logged warning.

    Args:
        path: The log.

    Yields:
        The records; ``"inf"`` is left as it is.

    Raises:
        LogError: If the file can't be read, has no valid header, or is damaged before its last line.
    """
    return read_lines(path, "run log", {"autotrainer_log": FORMAT}, "pass a file written by watch(log_dir=…)")


def read_lines(
    path: str | Path, kind: str, header: dict[str, int], hint: str, hook: Callable[[dict[str, Any]], Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Read a file with one JSON object per line, the header first; see `read_log`.

    Args:
        path: The file.
        kind: Kind of file, for messages.
        header: Required content of the header: the format version by the name of the format.
        hint: Which file to pass instead, for messages.
        hook: ``object_hook`` of `json.loads`.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError, TypeError) as error:
        raise LogError(f"can't read the {kind} {path}: {error}. {hint[0].upper()}{hint[1:]}.") from error
    complete, rest = lines[:-1], lines[-1]
    for number, line in enumerate(complete, 1):
        try:
            record = json.loads(line, object_hook=hook)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(complete) and not rest and number > 1:
                logger.warning("%s: the last line is damaged and is skipped", path)
                return
            if number > 1:
                raise LogError(
                    f"{path}: line {number} is damaged ({error}); keep the lines before it "
                    f"(head -n {number - 1}) and read those"
                ) from error
            record = {}
        if number == 1 and not header.items() <= record.items():
            raise LogError(f"{path} has no header of a {kind} of format {next(iter(header.values()))}: {hint}")
        yield record
    if not complete:
        raise LogError(f"{path} is empty or has no complete line: {hint}")
    if rest:
        logger.warning("%s: the last line is incomplete, as after a crash, and is skipped", path)


def encode_step(stats: StepStats, losses: Any, targets: TargetSummary) -> dict[str, Any]:
    """Return the record of a sampled step."""
    return {
        "type": "step",
        "step": stats.step,
        "epoch": stats.epoch,
        "scalars": stats.scalars,
        "layers": stats.layers,
        "losses": [list(pair) for pair in losses],
        "targets": asdict(targets),
    }


def decode_step(
    record: Mapping[str, Any], step_columns: list[str], layer_columns: list[str]
) -> tuple[StepStats, list[tuple[int, float]], TargetSummary]:
    """Return statistics, losses and target summary of a record of `encode_step`.

    Columns are matched by name, so that logs of other versions stay readable.

    Raises:
        LogError: If the record is incomplete or malformed.
    """
    try:
        scalars = _by_name(_floats(record["scalars"]), step_columns, STEP_COLUMNS)
        layers = _floats(record["layers"]).reshape(-1, len(layer_columns))
        table = _by_name(layers.T, layer_columns, LAYER_COLUMNS).T
        targets = dict(record["targets"])
        targets["values"] = tuple(targets["values"])
        numbers: dict[str, Any] = {name: _number(value) for name, value in targets.items()}
        losses = [(int(step), float(_number(loss))) for step, loss in record["losses"]]
        return (
            StepStats(int(record["step"]), int(record["epoch"]), scalars, np.ascontiguousarray(table)),
            losses,
            TargetSummary(**numbers),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LogError(f"a step record of the run log is damaged: {error!r}") from error


def _by_name(values: Floats, names: list[str], columns: tuple[str, ...]) -> Floats:
    out = np.full((len(columns), *values.shape[1:]), np.nan)
    for row, name in enumerate(columns):
        if name in names:
            out[row] = values[names.index(name)]
    return out


def _number(value: Any) -> Any:
    return float("nan") if value is None else (float("inf") if value == "inf" else value)


def _floats(values: Any) -> Floats:
    array = np.array(values, dtype=object)
    array[array == "inf"] = np.inf
    return array.astype(np.float64)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else (None if np.isnan(value) else "inf")
    return value
