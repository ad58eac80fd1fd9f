from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.rules.overfitting import Overfitting


def rising(e: int) -> float:
    return 0.6 - 0.02 * e if e < 10 else 0.4 + 0.03 * (e - 10)


OVER: dict[str, Any] = {
    "epochs": {"val_loss": rising, "val_accuracy": lambda e: 0.8, "accuracy": lambda e: min(1.0, 0.7 + 0.02 * e)}
}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(OVER, "warning", id="validation loss rises, gap opens"),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.85 if e < 12 else 0.7}},
            "error",
            id="validation accuracy falls",
        ),
        pytest.param(
            {"epochs": OVER["epochs"] | {"val_accuracy": lambda e: 0.49 + 0.01 * (e % 2)}},
            "error",
            id="learned by heart: never better than chance on validation data",
        ),
        pytest.param({"epochs": {"val_loss": rising}, "scalars": {"accuracy": 0.9}}, "warning", id="only losses known"),
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
            id="regression loses next to nothing",
        ),
        pytest.param(
            {"epochs": {"val_loss": lambda e: 0.02 * rising(e)}, "loss": "mae", "targets": "real"},
            None,
            id="another loss rises by next to nothing of what it was at the start",
        ),
        pytest.param(
            {"epochs": {"val_loss": rising}, "loss": "mae", "targets": "real"},
            "warning",
            id="another loss rises by much",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = Overfitting().check(*build(**case))
    assert (found.severity if found else None) == expected


def test_the_numbers_told_agree_with_each_other(build: Callable[..., Any]) -> None:
    found = Overfitting().check(
        *build(epochs=OVER["epochs"] | {"val_loss": lambda e: rising(e) if e < 29 else 0.41})  # one lucky epoch
    )
    assert found is not None
    assert f"is {found.evidence['rise']:.0%} above" in found.message
    assert f"({0.4 * (1 + found.evidence['rise']):.3g})" in found.message


def test_names_the_best_epoch(build: Callable[..., Any]) -> None:
    found = Overfitting().check(*build(**OVER))
    assert found is not None
    assert found.evidence["best_epoch"] == 10
    assert "after epoch 10" in found.message
