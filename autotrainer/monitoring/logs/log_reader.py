"""Reads run logs: what each record holds, and what is true of their sequence in every log that was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from os import PathLike
from typing import Annotated

import numpy as np

from autotrainer.monitoring.logs.run_log import RUN_LOG
from autotrainer.records.findings import Finding
from autotrainer.records.json_lines import Line, LineReader, read_lines
from autotrainer.records.schema import Bounds, RecordError, Row, Table, rebuild
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Floats, StepStats
from autotrainer.records.task import TargetSummary, TaskContext

__all__ = [
    "CheckRecord",
    "ContextRecord",
    "EndRecord",
    "EpochRecord",
    "FindingRecord",
    "LogFollower",
    "LogHeader",
    "LossesRecord",
    "Record",
    "StepRecord",
    "read_log",
]

_MAX_LAYERS = 100_000
_MAX_STEP = 10**12
_MAX_NAMES = 1000
"""Maximum number of names of epoch values in a log: the history has a table for each."""

Step = Annotated[int, Bounds(-1, _MAX_STEP)]
"""Number of a step; -1 before the first."""
Epoch = Annotated[int, Bounds(0, 10**9)]


@dataclass(frozen=True, slots=True)
class LogHeader:
    """The first line, with the columns of the tables."""

    version: str
    step_columns: tuple[str, ...]
    layer_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContextRecord:
    """What is known of the training from here on."""

    context: TaskContext


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A sampled step, with the losses of unsampled steps before it, shape (steps, 2), and the targets so far."""

    step: Step
    epoch: Epoch
    scalars: Row
    layers: Table
    losses: Table
    targets: TargetSummary
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def stats(self) -> StepStats:
        """The statistics of the step."""
        return StepStats(self.step, self.epoch, self.scalars, self.layers, self.terms)


@dataclass(frozen=True, slots=True)
class LossesRecord:
    """Losses of unsampled steps, shape (steps, 2), and terms of the loss where one is not finite."""

    losses: Table
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch that has ended at a step, with its values by name."""

    epoch: Epoch
    step: Step
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """The rules were evaluated here."""

    step: Step


@dataclass(frozen=True, slots=True)
class FindingRecord:
    """A new finding."""

    finding: Finding


@dataclass(frozen=True, slots=True)
class EndRecord:
    """The training has ended, regularly or interrupted."""

    step: Step
    finished: bool = True


Record = ContextRecord | StepRecord | LossesRecord | EpochRecord | CheckRecord | FindingRecord | EndRecord

_RECORDS: Mapping[str, type[Record]] = {
    "context": ContextRecord,
    "step": StepRecord,
    "losses": LossesRecord,
    "epoch": EpochRecord,
    "check": CheckRecord,
    "finding": FindingRecord,
    "end": EndRecord,
}


def read_log(path: str | PathLike[str]) -> Iterator[Record]:
    """Read the records of a run log.

    Columns are matched by name, so that logs of other versions are readable.

    Args:
        path: The log.

    Yields:
        The records; tables of steps have the columns `STEP_COLUMNS` and `LAYER_COLUMNS`.

    Raises:
        LogError: If the file can't be read, is no run log, or a complete line is damaged or makes no sense where it is.
    """
    decoder = _Decoder()
    with closing(read_lines(path, RUN_LOG)) as lines:
        yield from decoder.records(lines)


class LogFollower:
    """Reads a run log that may still grow: each `read` continues where the one before has ended.

    Args:
        path: The log.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._lines = LineReader(path, RUN_LOG)
        self._decoder = _Decoder()

    @property
    def end(self) -> int:
        """Position in the file up to which it is read, in bytes."""
        return self._lines.end

    @property
    def incomplete(self) -> bool:
        """Whether an incomplete line was behind that position."""
        return self._lines.incomplete

    def read(self) -> Iterator[Record]:
        """Read the complete records that have not been read; one that is not taken from here is not read.

        Raises:
            LogError: As `read_log`, and if what was read is gone; not if there is no complete line yet.
        """
        with closing(self._lines.read()) as lines:
            yield from self._decoder.records(lines)


class _Decoder:
    """Turns the lines of a log into records."""

    def __init__(self) -> None:
        self._sequence: _Sequence | None = None

    def records(self, lines: Iterator[Line]) -> Iterator[Record]:
        for line in lines:
            try:
                if self._sequence is None:
                    self._sequence = _Sequence(rebuild(LogHeader, line.record))
                    continue
                kind = line.record.get("type")
                if not isinstance(kind, str) or kind not in _RECORDS:
                    raise RecordError(f"type: one of {', '.join(_RECORDS)} expected")
                yield self._sequence.checked(rebuild(_RECORDS[kind], line.record))
            except RecordError as error:
                raise line.damaged(error) from error


@dataclass
class _Sequence:
    """Checks records against the ones before."""

    header: LogHeader
    layers: int = 0
    sampled: int = -1
    step: int = -1
    epoch: int = 0
    epoch_step: int = 0
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        _check_columns("step_columns", self.header.step_columns, STEP_COLUMNS)
        _check_columns("layer_columns", self.header.layer_columns, LAYER_COLUMNS)

    def checked(self, record: Record) -> Record:
        if isinstance(record, ContextRecord):
            self._check_layers(len(record.context.layers))
        elif isinstance(record, StepRecord):
            self._check_losses(record.losses)
            return self._with_columns(record)
        elif isinstance(record, LossesRecord):
            self._check_losses(record.losses)
        elif isinstance(record, EpochRecord):
            # An epoch may be recognized only after steps of the next ones, and epochs may be counted again.
            self._check_order(record.step, min(self.step, self.epoch_step), self.epoch)
            self.epoch_step, self.step, self.epoch = record.step, max(self.step, record.step), record.epoch
            self.names |= record.values.keys()
            if len(self.names) > _MAX_NAMES:
                raise RecordError(f"values: the log has more than {_MAX_NAMES} names of epoch values")
        elif isinstance(record, CheckRecord | EndRecord):
            self._advance(record.step, self.epoch)
        return record

    def _advance(self, step: int, epoch: int) -> None:
        self._check_order(step, self.step, epoch)
        self.step, self.epoch = step, epoch

    def _check_order(self, step: int, before: int, epoch: int) -> None:
        if step < before:
            raise RecordError(f"step: {step} after {before}")
        if epoch < self.epoch:
            raise RecordError(f"epoch: {epoch} after {self.epoch}")

    def _check_layers(self, layers: int) -> None:
        if layers > _MAX_LAYERS:
            raise RecordError(f"layers: more than {_MAX_LAYERS}")
        if self.sampled >= 0 and layers != self.layers:
            raise RecordError(f"layers: {layers}, but the steps before have {self.layers}")
        self.layers = layers

    def _check_losses(self, losses: Floats) -> None:
        if not len(losses):
            return
        if losses.shape[1] != 2:
            raise RecordError("losses: pairs of step and loss expected")
        steps = losses[:, 0]
        if not ((steps >= 0) & (steps <= _MAX_STEP) & (steps == np.floor(steps))).all():
            raise RecordError("losses: pairs of step and loss expected")

    def _with_columns(self, record: StepRecord) -> StepRecord:
        header, shape = self.header, record.layers.shape
        if record.step <= self.sampled:
            raise RecordError(f"step: {record.step} after {self.sampled}")
        self._advance(record.step, record.epoch)
        if len(record.scalars) != len(header.step_columns):
            raise RecordError(f"scalars: {len(header.step_columns)} numbers expected, not {len(record.scalars)}")
        if shape[0] != self.layers or (shape[0] and shape[1] != len(header.layer_columns)):
            raise RecordError(
                f"layers: {self.layers} rows of {len(header.layer_columns)} numbers expected, not {shape}"
            )
        self.sampled = record.step
        scalars = _by_name(record.scalars[None], header.step_columns, STEP_COLUMNS)[0]
        layers = _by_name(record.layers, header.layer_columns, LAYER_COLUMNS)
        return StepRecord(record.step, record.epoch, scalars, layers, record.losses, record.targets, record.terms)


def _check_columns(name: str, columns: Sequence[str], present: Sequence[str]) -> None:
    """Check that columns are all different, and in the order in which every version has written them."""
    common = [column for column in columns if column in present]
    if len(set(columns)) < len(columns) or common != [column for column in present if column in common]:
        raise RecordError(f"{name}: a column occurs twice or in another place")


def _by_name(rows: Floats, names: Sequence[str], columns: Sequence[str]) -> Floats:
    out = np.full((len(rows), len(columns)), np.nan)
    if len(rows):
        for column, name in enumerate(columns):
            if name in names:
                out[:, column] = rows[:, names.index(name)]
    return out
