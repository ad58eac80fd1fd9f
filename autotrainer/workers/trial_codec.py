"""Ended trainings as lines of JSON, exact to the bit: all that a search needs, without any model."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.edits import edit_from_dict
from autotrainer.records.findings import Finding
from autotrainer.records.task import TaskContext
from autotrainer.scoring.metrics import Score
from autotrainer.training.trial import Failure, Trial

__all__ = ["decode_object", "from_record", "restore_targets", "to_line", "to_record"]


def to_line(record: Mapping[str, Any]) -> str:
    """Return one line of strict JSON; arrays are compressed, non-finite numbers become objects."""
    return json.dumps(_plain(record), separators=(",", ":"), allow_nan=False) + "\n"


def decode_object(value: dict[str, Any]) -> Any:
    """Decode a JSON object that `to_line` wrote: the ``object_hook`` of `json.loads`."""
    if value.keys() == {"float"}:
        return float(value["float"])
    if value.keys() == {"array", "dtype", "shape"}:
        content = zlib.decompress(base64.b64decode(value["array"]))
        return np.frombuffer(content, value["dtype"]).reshape(value["shape"]).copy()
    return value


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
    }


def from_record(record: Mapping[str, Any], spec: TrainingSpec) -> Trial | Failure:
    """Rebuild an ended training; a trial has no model, and its evaluation no targets: see `restore_targets`.

    Args:
        record: What `to_record` returned.
        spec: Recipe of the training.
    """
    if "error" in record:
        return Failure(record["error"], record["work"], record["peak"])
    return Trial(
        spec,
        None,
        None if record["judged"] is None else _score_from_record(record["judged"]),
        tuple(Finding.from_dict(values) for values in record["findings"]),
        TaskContext.from_dict(record["context"]),
        {name: list(values) for name, values in record["history"].items()},
        record["work"],
        record["cut_short"],
        above_trivial=record["above_trivial"],
        edits=tuple(edit_from_dict(values) for values in record["edits"]),
        granted=record["granted"],
        peak=record["peak"],
        total=record["total"],
        stuck=record["stuck"],
        resumable=record["goes_on"],
    )


def restore_targets(trial: Trial, reference: Evaluation | None) -> None:
    """Restore the targets in the score of a rebuilt trial whose metric compares predictions: no record has them.

    Args:
        trial: The trial.
        reference: An evaluation of any model on the validation data.
    """
    score = trial.score
    if score is not None and score.evaluation is not None and reference is not None:
        trial.score = replace(score, evaluation=replace(score.evaluation, targets=reference.targets))


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


def _score_from_record(record: Mapping[str, Any]) -> Score:
    outputs, loss = record["outputs"], record["loss"]
    evaluation = None if outputs is None else Evaluation(outputs, np.empty(0), loss)
    return Score(record["value"], record["nonfinite"], record["rows"], record["weights"], evaluation)


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
        return {"float": str(value)}
    return value


def _packed(array: NDArray[Any]) -> dict[str, Any]:
    content = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode("ascii")
    return {"array": content, "dtype": array.dtype.str, "shape": array.shape}
