"""Ended trainings as lines of JSON, exact to the bit: what takes part in a search, without any model."""

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

__all__ = ["complete", "outcome_of", "rebuilt", "to_line", "to_record"]


def to_line(record: Mapping[str, Any]) -> str:
    """Return one line of strict JSON; arrays are packed, numbers that are not finite become objects."""
    return json.dumps(_plain(record), separators=(",", ":"), allow_nan=False) + "\n"


def rebuilt(value: dict[str, Any]) -> Any:
    """Return what an object of JSON stands for: the ``object_hook`` for what `to_line` wrote."""
    if value.keys() == {"float"}:
        return float(value["float"])
    if value.keys() == {"array", "dtype", "shape"}:
        content = zlib.decompress(base64.b64decode(value["array"]))
        return np.frombuffer(content, value["dtype"]).reshape(value["shape"]).copy()
    return value


def to_record(outcome: Trial | Failure) -> dict[str, Any]:
    """Return what `outcome_of` needs to rebuild an ended training."""
    if isinstance(outcome, Failure):
        return {"error": outcome.error, "work": outcome.work, "peak": outcome.peak}
    return {
        "judged": None if outcome.judged is None else _judged(outcome.judged),
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
        "goes_on": outcome.goes_on,
    }


def outcome_of(record: Mapping[str, Any], spec: TrainingSpec) -> Trial | Failure:
    """Rebuild an ended training from what `to_record` returned; a trial has no model.

    Args:
        record: The record.
        spec: Recipe of the training.
    """
    if "error" in record:
        return Failure(record["error"], record["work"], record["peak"])
    return Trial(
        spec,
        None,
        None if record["judged"] is None else _of_judged(record["judged"]),
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
        goes_on=record["goes_on"],
    )


def complete(trial: Trial, look: Evaluation | None) -> None:
    """Complete the score of a rebuilt trial that is compared by its predictions with the targets, which no record has.

    Args:
        trial: The trial.
        look: An evaluation of any model on the validation data.
    """
    judged = trial.judged
    if judged is not None and judged.evaluation is not None and look is not None:
        trial.judged = replace(judged, evaluation=replace(judged.evaluation, targets=look.targets))


def _judged(judged: Score) -> dict[str, Any]:
    seen = judged.evaluation
    return {
        "value": judged.value,
        "nonfinite": judged.nonfinite,
        "rows": judged.rows,
        "weights": judged.weights,
        "outputs": None if seen is None else np.asarray(seen.outputs),
        "loss": None if seen is None else seen.loss,
    }


def _of_judged(values: Mapping[str, Any]) -> Score:
    outputs, loss = values["outputs"], values["loss"]
    seen = None if outputs is None else Evaluation(outputs, np.empty(0), loss)
    return Score(values["value"], values["nonfinite"], values["rows"], values["weights"], seen)


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
