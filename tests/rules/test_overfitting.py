from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.task import TargetSummary
from autotrainer.rules.overfitting import Overfitting


def rising(e: int) -> float:
    return 0.6 - 0.02 * e if e < 10 else 0.4 + 0.03 * (e - 10)


OVER: dict[str, Any] = {
    "epochs": {"val_loss": rising, "val_accuracy": lambda e: 0.8, "accuracy": lambda e: min(1.0, 0.7 + 0.02 * e)}
}

INDEX: dict[str, Any] = {
    "targets": TargetSummary(
        600, 600, 1, 1, True, True, 0.0, 3.0, 1.5, 1.25, classes=4, majority=0.25, entropy=math.log(4)
    ),
    "loss": "ce",
    "losses": lambda t: 1.4 - t / 600,
    "scalars": {"accuracy": 0.9},
}


def held_out(loss: float, accuracy: float) -> dict[str, Any]:
    """Return a run of four classes, learned well, with constant results in validation."""
    epochs = {"val_loss": lambda e: loss, "val_accuracy": lambda e: accuracy, "accuracy": lambda e: 0.9}
    return INDEX | {"epochs": epochs}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(OVER, "info", id="validation loss rises, gap opens, accuracy holds"),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.82 if e < 12 else 0.8}},
            "info",
            id="validation accuracy falls by its noise",
        ),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.87 if e < 12 else 0.8}},
            "warning",
            id="validation accuracy falls a little",
        ),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.85 if e < 12 else 0.7}},
            "error",
            id="validation accuracy falls",
        ),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.49 + 0.01 * (e % 2)}},
            "error",
            id="memorized: never better than chance on validation data",
        ),
        pytest.param(OVER | {"asked": {"above_constant": 0.0}}, "info", id="no better than a constant, small gap"),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.68}, "asked": {"above_constant": 0.0}},
            "error",
            id="memorized: no better than the best constant on the validation rows",
        ),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.68}, "asked": {"above_constant": 1.0}},
            "info",
            id="better than the best constant on the validation rows",
        ),
        pytest.param(
            {"epochs": {"val_loss": rising}, "scalars": {"accuracy": 0.9}}, "warning", id="only losses measured"
        ),
        pytest.param(
            {"epochs": {"val_loss": lambda e: 0.02 * rising(e)}, "scalars": {"accuracy": 0.99}},
            None,
            id="only losses measured: cross-entropy rises by a negligible share of the initial loss",
        ),
        pytest.param(
            {"epochs": {"val_loss": lambda e: 0.69, "val_accuracy": lambda e: 0.51, "accuracy": lambda e: 0.95}},
            "error",
            id="memorized: chance on validation data, whose loss does not rise",
        ),
        pytest.param(
            {"scalars": {"accuracy": 0.62}, "epochs": {"val_loss": lambda e: 0.69, "val_accuracy": lambda e: 0.5}},
            "error",
            id="memorized in part",
        ),
        pytest.param(
            {"scalars": {"accuracy": 0.56}, "epochs": {"val_loss": lambda e: 0.69, "val_accuracy": lambda e: 0.5}},
            None,
            id="learns nothing on training data either",
        ),
        pytest.param(
            {"epochs": {"val_loss": lambda e: 0.69, "val_accuracy": lambda e: 0.65, "accuracy": lambda e: 0.95}},
            None,
            id="better than chance on validation data",
        ),
        pytest.param(held_out(1.5, 0.32), "error", id="little better than chance, by loss no better"),
        pytest.param(held_out(1.3, 0.32), None, id="little better than chance, by loss as well"),
        pytest.param(held_out(3.0, 0.5), None, id="too sure of itself, but accurate"),
        pytest.param({"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.97}}, None, id="no gap"),
        pytest.param({"epochs": OVER["epochs"] | {"val_loss": lambda e: 0.6 - 0.01 * e}}, None, id="still falls"),
        pytest.param(OVER | {"losses": lambda t: 0.5}, None, id="training loss does not fall"),
        pytest.param(OVER | {"steps": 260}, None, id="best just passed"),
        pytest.param({}, None, id="no validation"),
        pytest.param(
            {"epochs": {"val_loss": rising}, "loss": "mse", "targets": "real"},
            "error",
            id="regression loses much of R²",
        ),
        pytest.param(
            {"epochs": {"val_loss": lambda e: 0.05 * rising(e)}, "loss": "mse", "targets": "real"},
            "warning",
            id="regression loses some of R²",
        ),
        pytest.param(
            {"epochs": {"val_loss": lambda e: 0.02 * rising(e)}, "loss": "mse", "targets": "real"},
            None,
            id="regression loses negligibly",
        ),
        pytest.param(
            {"epochs": {"val_loss": lambda e: 0.02 * rising(e)}, "loss": "mae", "targets": "real"},
            None,
            id="another loss rises by a negligible share of the initial loss",
        ),
        pytest.param(
            {"epochs": {"val_loss": rising}, "loss": "mae", "targets": "real"},
            "warning",
            id="another loss rises by much",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = Overfitting().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_numbers_in_the_message_agree(build: Callable[..., Any]) -> None:
    finding = Overfitting().check(
        *build(epochs=OVER["epochs"] | {"val_loss": lambda e: rising(e) if e < 29 else 0.41})  # one lucky epoch
    )
    assert finding is not None
    assert f"is now {finding.evidence['rise']:.0%} above" in finding.message
    assert f"({0.4 * (1 + finding.evidence['rise']):.3g})" in finding.message


def test_names_the_best_epoch(build: Callable[..., Any]) -> None:
    finding = Overfitting().check(*build(**OVER))
    assert finding is not None
    assert finding.evidence["best_epoch"] == 10
    assert "after epoch 10" in finding.message


@pytest.mark.parametrize(
    ("rows", "train_rows", "told"),
    [
        pytest.param(lambda t: 64.0, None, True, id="the same few rows"),
        pytest.param(lambda t: min(64.0 + t, 200.0), None, True, id="no new ones any more"),
        pytest.param(lambda t: 64.0 + 4 * t, None, False, id="new rows"),
        pytest.param(lambda t: 64.0, 64, False, id="all rows of arrays"),
    ],
)
def test_few_rows_of_a_stream_are_named(
    build: Callable[..., Any], rows: Callable[[int], float], train_rows: int | None, told: bool
) -> None:
    finding = Overfitting().check(*build(**OVER, scalars={"distinct_rows": rows}, train_rows=train_rows))
    assert finding is not None
    assert ("different rows" in finding.message) is told
