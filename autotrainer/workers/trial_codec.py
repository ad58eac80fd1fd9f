"""Ended trainings as records of JSON, exact to the bit: all that a search needs, without any model."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.edits import Edit, edit_from_dict
from autotrainer.errors import ConfigError, LogError
from autotrainer.records.findings import Finding
from autotrainer.records.schema import Bounds, RecordError, rebuild
from autotrainer.records.task import TaskContext
from autotrainer.reporting.charts.run_charts import RunCharts
from autotrainer.scoring.metrics import Score
from autotrainer.training.trial import Failure, Trial

__all__ = ["Work", "check_record", "from_record", "restore_targets", "to_plain", "to_record", "to_text"]

_MAX_BYTES = 2**29
"""Maximum size of an array in bytes; a longer one is neither written nor unpacked."""
_CHUNK = 2**20
_DTYPES = {
    dtype.str: dtype
    for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]
    for dtype in (np.dtype(code), np.dtype(code).newbyteorder())
}
"""Types of numbers, by their names in records."""

Work = Annotated[int, Bounds(0, 10**30)]
"""Operations; of large models more than 64 bits hold."""


def to_plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as plain values of strict JSON: arrays are compressed, non-finite numbers become strings.

    Raises:
        LogError: If an array is too large to be read back, or does not hold numbers.
    """
    plain: dict[str, Any] = _plain(record)
    return plain


def to_text(record: Mapping[str, Any]) -> str:
    """Return a record as strict JSON: see `to_plain`."""
    return json.dumps(to_plain(record), separators=(",", ":"), allow_nan=False)


def to_record(outcome: Trial | Failure) -> dict[str, Any]:
    """Return the record from which `from_record` rebuilds an ended training."""
    if isinstance(outcome, Failure):
        return {"error": outcome.error, "work": outcome.work, "peak": outcome.peak}
    return {
        "judged": None if outcome.score is None else _score_to_record(outcome.score),
        "findings": [{**f.to_dict(), "confidence": float(f.confidence)} for f in outcome.findings],
        "context": outcome.context.to_dict(),
        "history": outcome.history,
        "work": outcome.work,
        "cut_short": outcome.cut_short,
        "above_trivial": outcome.above_trivial,
        "edits": [edit.to_dict() for edit in outcome.edits],
        "granted": outcome.granted,
        "peak": outcome.peak,
        "total": outcome.total,
        "stuck": outcome.stuck,
        "goes_on": outcome.resumable,
        "halted": outcome.halted,
        "samples": outcome.samples,
        "partial": outcome.partial,
        "charts": None if outcome.charts is None else asdict(outcome.charts),
        "scores": [{"samples": samples, **_score_to_record(score)} for samples, score in outcome.scores.items()],
    }


def from_record(record: Mapping[str, Any], spec: TrainingSpec) -> Trial | Failure:
    """Rebuild an ended training; a trial has no model, and its evaluation no targets: see `restore_targets`.

    Args:
        record: What `to_record` returned, read back from JSON.
        spec: Recipe of the training.

    Raises:
        RecordError: If a value is missing or makes no sense.
    """
    if "error" in record:
        failure = rebuild(_FailureRecord, record)
        return Failure(failure.error, failure.work, failure.peak)
    trial = rebuild(_TrialRecord, record)
    if trial.goes_on and not trial.history.get("score"):
        raise RecordError("history: a training that goes on has a score")
    return Trial(
        spec,
        None,
        None if trial.judged is None else trial.judged.score(),
        trial.findings,
        trial.context,
        trial.history,
        trial.work,
        trial.cut_short,
        above_trivial=trial.above_trivial,
        edits=trial.edits,
        granted=trial.granted,
        peak=trial.peak,
        total=trial.total,
        stuck=trial.stuck,
        resumable=trial.goes_on,
        halted=trial.halted,
        samples=trial.samples,
        partial=trial.partial,
        charts=trial.charts,
        scores={entry.samples: entry.score() for entry in trial.scores},
    )


def check_record(record: Mapping[str, Any]) -> None:
    """Check that `from_record` can rebuild a training.

    Raises:
        RecordError: If a value is missing or makes no sense.
    """
    from_record(record, TrainingSpec(1, 0))


def restore_targets(trial: Trial, reference: Evaluation | None) -> None:
    """Restore the targets in the score of a rebuilt trial whose metric compares predictions: no record has them.

    Args:
        trial: The trial.
        reference: An evaluation of any model on the validation data.

    Raises:
        LogError: If its predictions are of another shape or type.
    """
    if reference is not None:
        trial.score = None if trial.score is None else _with_targets(trial.score, reference)
        trial.scores = {samples: _with_targets(score, reference) for samples, score in trial.scores.items()}


def _with_targets(score: Score, reference: Evaluation) -> Score:
    if score.evaluation is None:
        return score
    outputs, expected = score.evaluation.outputs, np.asarray(reference.outputs)
    if (outputs.shape, outputs.dtype) != (expected.shape, expected.dtype):
        raise LogError(
            f"the journal has predictions of shape {outputs.shape} and type {outputs.dtype}, this training "
            f"{expected.shape} and {expected.dtype}: leave resume=True out, or give another log_dir"
        )
    return replace(score, evaluation=replace(score.evaluation, targets=reference.targets))


def _score_to_record(score: Score) -> dict[str, Any]:
    evaluation = score.evaluation
    return {
        "value": score.value,
        "nonfinite": score.nonfinite,
        "rows": score.rows,
        "weights": score.weights,
        "outputs": None if evaluation is None else np.asarray(evaluation.outputs),
        "loss": None if evaluation is None else evaluation.loss,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _packed(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    if array.nbytes > _MAX_BYTES or array.dtype.str not in _DTYPES:
        raise LogError(f"an array of {array.nbytes} bytes and type {array.dtype} is too large, or no numbers")
    content = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode("ascii")
    return {"array": content, "dtype": array.dtype.str, "shape": list(array.shape)}


@dataclass(frozen=True, slots=True)
class _PackedArray:
    array: str
    dtype: str
    shape: tuple[Annotated[int, Bounds(0, _MAX_BYTES)], ...]


def _unpacked(value: Any) -> NDArray[Any]:
    """Unpack an array, never more than its type and shape say."""
    packed = rebuild(_PackedArray, value)
    dtype = _DTYPES.get(packed.dtype)
    if dtype is None:
        raise RecordError("dtype: a type of numbers expected")
    size = math.prod(packed.shape) * dtype.itemsize
    if size > _MAX_BYTES:
        raise RecordError(f"shape: at most {_MAX_BYTES} bytes expected, not {size}")
    content = np.empty(size, np.uint8)  # takes memory only as it is filled
    try:
        _inflate(base64.b64decode(packed.array, validate=True), content)
        return content.view(dtype).reshape(packed.shape)
    except (zlib.error, ValueError) as error:  # a shape can have too many dimensions
        raise RecordError(f"array: {error}") from error


def _inflate(packed: bytes, content: NDArray[np.uint8]) -> None:
    inflater, filled = zlib.decompressobj(), 0
    for start in range(0, len(packed), _CHUNK):
        rest = packed[start : start + _CHUNK]
        while part := inflater.decompress(rest, min(_CHUNK, len(content) - filled + 1)):
            if filled + len(part) > len(content):
                raise ValueError("it is longer than its shape says")
            content[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled, rest = filled + len(part), inflater.unconsumed_tail
    if filled < len(content) or not inflater.eof or inflater.unused_data:
        raise ValueError("it is shorter than its shape says, or something follows it")


def _edit(value: Any) -> Edit:
    try:
        return edit_from_dict(value)
    except ConfigError as error:
        raise RecordError(str(error)) from error


Array = Annotated[NDArray[Any], _unpacked]


@dataclass(frozen=True, slots=True)
class _ScoreRecord:
    value: float
    nonfinite: float
    rows: Array | None
    weights: Array | None
    outputs: Array | None
    loss: float | None

    def score(self) -> Score:
        if (self.outputs is None) != (self.loss is None):
            raise RecordError("judged: outputs and loss belong together")
        for name, array in (("rows", self.rows), ("weights", self.weights)):
            if array is not None and (array.ndim != 1 or array.dtype != np.float64):
                raise RecordError(f"judged: {name}: numbers of double precision, one per row, expected")
        if self.weights is not None and (self.rows is None or len(self.rows) != len(self.weights)):
            raise RecordError("judged: rows and weights differ in number")
        if self.outputs is not None and not self.outputs.ndim:
            raise RecordError("judged: outputs: rows expected")
        evaluation = None
        if self.outputs is not None and self.loss is not None:
            evaluation = Evaluation(self.outputs, np.empty(0), self.loss)
        return Score(self.value, self.nonfinite, self.rows, self.weights, evaluation)


@dataclass(frozen=True, slots=True)
class _CheckpointRecord(_ScoreRecord):
    samples: Work


@dataclass(frozen=True, slots=True)
class _TrialRecord:
    judged: _ScoreRecord | None
    findings: tuple[Finding, ...]
    context: TaskContext
    history: dict[str, list[float]]
    work: Work
    cut_short: bool
    above_trivial: bool
    edits: tuple[Annotated[Edit, _edit], ...]
    granted: Work
    peak: Work
    total: Work
    stuck: bool
    goes_on: bool
    halted: bool = False
    samples: Work = 0
    partial: bool = False
    scores: tuple[_CheckpointRecord, ...] = ()
    charts: RunCharts | None = None


@dataclass(frozen=True, slots=True)
class _FailureRecord:
    error: str
    work: Work
    peak: Work
