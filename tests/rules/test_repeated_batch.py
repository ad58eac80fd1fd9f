from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.repeated_batch import RepeatedBatch

SAME: dict[str, Any] = {
    "targets": "index",
    "loss": "ce",
    "output_units": 4,
    "scalars": {"accuracy": 1.0, "distinct_rows": 32.0},
    "epochs": {"val_accuracy": lambda epoch: 0.6},
    "finished": True,
}
NO_VALIDATION = {"epochs": {"value": float}}
GROWING = {"accuracy": 1.0, "distinct_rows": lambda step: min(4096.0, 32.0 * (step + 1))}


def scalars(**changes: Any) -> dict[str, Any]:
    return {"scalars": SAME["scalars"] | changes}


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        pytest.param(
            {"asked": {"epoch_batches": 20.0}}, "error", "although the data have 20 batches; acc", id="loader"
        ),
        pytest.param({"asked": {"dataset_batches": 40.0}}, "error", "accuracy is 1 in training and 0.6", id="take(1)"),
        pytest.param({"asked": {"restarted_batches": 40.0}}, "error", "a new pass", id="next(iter(loader))"),
        pytest.param({}, "warning", "sampled steps had the same 32 rows as inputs; accuracy", id="all there is"),
        pytest.param({"asked": {"epoch_batches": 1.0}}, "warning", "the same 32", id="loader of one batch"),
        pytest.param({"asked": {"epoch_batches": 20.0}, "steps": 280, "finished": False}, None, "", id="early"),
        pytest.param(
            {"asked": {"epoch_batches": 20.0}, "planned_epochs": None, "finished": False}, "warning", "", id="no plan"
        ),
        pytest.param({"per_epoch": 1, "planned_epochs": 600}, None, "", id="full batches"),
        pytest.param({"steps": 1500, "per_epoch": 1, "planned_epochs": 1500}, None, "", id="many full batches"),
        pytest.param({"train_rows": 32}, None, "", id="no further rows"),
        pytest.param(scalars(backward_passes=4.0) | {"asked": {"epoch_batches": 4.0}}, None, "", id="accumulation"),
        pytest.param(scalars(batch_size=2708.0, distinct_rows=256.0), None, "", id="batches not copied whole"),
        pytest.param({"epochs": {"val_accuracy": lambda epoch: 0.99}}, None, "", id="good in validation"),
        pytest.param(NO_VALIDATION, None, "", id="one batch as a test"),
        pytest.param(NO_VALIDATION | {"asked": {"epoch_batches": 20.0}}, None, "", id="the same, with a loader"),
        pytest.param(
            NO_VALIDATION | {"asked": {"restarted_batches": 20.0}}, "warning", "20 batches (each", id="only training"
        ),
        pytest.param({"scalars": GROWING, "asked": {"epoch_batches": 20.0}}, None, "", id="other rows"),
        pytest.param(scalars(distinct_rows=np.nan), None, "", id="inputs not measured"),
        pytest.param(scalars(distinct_rows=3.0), None, "", id="inputs of few values"),
        pytest.param(scalars(distinct_rows=1.0, batch_size=1.0), None, "", id="constant input"),
        pytest.param(scalars(target_spread=lambda step: 1 + 0.01 * (step % 7)), None, "", id="other targets"),
        pytest.param(scalars(batch_size=lambda step: 32.0 + step % 3), None, "", id="other sizes"),
        pytest.param({"steps": 40, "planned_epochs": 2}, None, "", id="few steps"),
        pytest.param({"managed": True}, None, "", id="fit knows its data"),
    ],
)
def test_same_rows_in_all_steps(build: Callable[..., Any], options: Any, expected: str | None, words: str) -> None:
    finding = RepeatedBatch().check(*build(**SAME | options))
    assert (finding and str(finding.severity)) == expected
    assert finding is None or words in finding.message


def test_regression_is_judged_by_r2(build: Callable[..., Any]) -> None:
    run = {
        "targets": "real",
        "loss": "mse",
        "scalars": {"distinct_rows": 32.0, "squared_error": 0.01},
        "losses": lambda step: 0.01,
        "epochs": {"val_loss": lambda epoch: 0.8},
        "finished": True,
    }
    finding = RepeatedBatch().check(*build(**run))
    assert finding is not None
    assert "R² is 0.99 in training and 0.2 in validation" in finding.message


@pytest.mark.parametrize("batches", [2, 4])
def test_steps_at_the_same_place_of_each_epoch_have_the_same_rows(build: Callable[..., Any], batches: int) -> None:
    history, context = build(**SAME | {"asked": {"epoch_batches": float(batches)}})
    odd = history.steps % batches != 0
    assert RepeatedBatch().check(history, context) is not None
    history._scalars = history._scalars.where(~odd)
    assert RepeatedBatch().check(history, context) is None
