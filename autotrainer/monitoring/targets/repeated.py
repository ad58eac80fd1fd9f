"""One target of a row that is compared with the outputs of all of its time steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.task import TaskKind, correct_values

__all__ = ["repeated_columns"]

_ROWS = 4
"""Fewest rows in all of which a target has to be repeated."""


def repeated_columns(
    outputs: NDArray[Any], targets: NDArray[Any], kind: TaskKind, *, cut: float, class_axis: int
) -> dict[str, float]:
    """Return the columns about targets that are the same for all outputs of a row; empty if they are not.

    Args:
        outputs: Shape (rows, steps), (rows, steps, 1) or, for several classes, (rows, steps, classes) or, with
            ``class_axis=1``, (rows, classes, steps).
        targets: Targets of the rows, shape (rows,) or (rows, 1), or of their steps.
        kind: Kind of task.
        cut: Threshold above which a single unit predicts the positive class.
        class_axis: Axis of the classes in ``outputs``.
    """
    classes = kind == "multiclass" and outputs.ndim == 3 and outputs.shape[class_axis] > 1
    by_step = np.moveaxis(outputs, class_axis, -1) if classes else outputs
    if not classes and outputs.ndim == 3 and outputs.shape[2] == 1:
        by_step = outputs[:, :, 0]
    if (
        by_step.ndim != 2 + classes
        or (kind == "multiclass") != classes
        or by_step.shape[1] < 2
        or len(targets) != len(outputs)
        or len(targets) < _ROWS
    ):
        return {}
    rows, steps = by_step.shape[:2]
    if targets.size not in (rows, rows * steps):
        return {}
    of_step = np.broadcast_to(targets.reshape(rows, -1), (rows, steps))
    if not (of_step == of_step[:, :1]).all() or (of_step[:, 0] == of_step[0, 0]).all():
        return {}
    if kind in ("multiclass", "binary", "multilabel"):
        correct, counts = correct_values(by_step, of_step, "multiclass" if classes else "multilabel", cut=cut)
        wrong = np.where(counts, ~correct, False).astype(np.float64)
    else:
        wrong = (by_step - of_step) ** 2
    return {
        "repeated_targets": float(steps),
        "last_error": float(wrong[:, -1].mean()),
        "mean_error": float(wrong.mean()),
    }
