from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.monitoring.targets.repeated import repeated_columns
from autotrainer.records.task import TaskKind

ROWS, STEPS = 16, 5
LABELS = np.arange(ROWS) % 2
VALUES = np.linspace(-1, 1, ROWS)
KNOWN = np.linspace(0, 1, STEPS)
"""How much of the target each output knows: nothing at first, all at last."""
OUTPUTS = VALUES[:, None] * KNOWN
SCORES = np.where((np.arange(STEPS) >= 3) | (np.arange(ROWS) < 8)[:, None], 1, -1) * (2 * LABELS - 1)[:, None]
"""Half of the first three scores are wrong, and none of the last two."""
CLASSES = np.stack([-SCORES, SCORES], axis=2)


@pytest.mark.parametrize(
    ("outputs", "targets", "kind", "axis", "last", "mean"),
    [
        pytest.param(OUTPUTS, VALUES[:, None], "regression", -1, 0, None, id="broadcast"),
        pytest.param(OUTPUTS[:, :, None], VALUES, "regression", -1, 0, None, id="broadcast, with a unit"),
        pytest.param(OUTPUTS, np.repeat(VALUES[:, None], STEPS, 1), "regression", -1, 0, None, id="repeated"),
        pytest.param(SCORES, np.repeat(LABELS[:, None], STEPS, 1), "binary", -1, 0, 0.3, id="labels"),
        pytest.param(CLASSES, np.repeat(LABELS[:, None], STEPS, 1), "multiclass", -1, 0, 0.3, id="classes"),
        pytest.param(
            np.moveaxis(CLASSES, 2, 1), np.repeat(LABELS[:, None], STEPS, 1), "multiclass", 1, 0, 0.3, id="axis 1"
        ),
    ],
)
def test_errors_of_one_target(
    outputs: Any, targets: Any, kind: TaskKind, axis: int, last: float, mean: float | None
) -> None:
    values = repeated_columns(outputs, targets, kind, cut=0.0, class_axis=axis)
    expected = float(((OUTPUTS - VALUES[:, None]) ** 2).mean()) if mean is None else mean
    assert values == {
        "repeated_targets": STEPS,
        "last_error": pytest.approx(last),
        "mean_error": pytest.approx(expected),
    }


@pytest.mark.parametrize(
    ("outputs", "targets", "kind"),
    [
        pytest.param(OUTPUTS[:, -1:], VALUES[:, None], "regression", id="one output"),
        pytest.param(CLASSES[:, -1], LABELS, "multiclass", id="classes of the last step"),
        pytest.param(OUTPUTS, OUTPUTS, "regression", id="a target for each step"),
        pytest.param(OUTPUTS, np.ones((ROWS, STEPS)), "regression", id="all the same"),
        pytest.param(OUTPUTS[:2], VALUES[:2, None], "regression", id="few rows"),
        pytest.param(OUTPUTS, VALUES[:8], "regression", id="other rows"),
        pytest.param(np.zeros((ROWS, STEPS, 3)), np.zeros((ROWS, STEPS, 3)), "regression", id="vectors"),
    ],
)
def test_other_targets(outputs: Any, targets: Any, kind: TaskKind) -> None:
    assert repeated_columns(outputs, targets, kind, cut=0.0, class_axis=-1) == {}
