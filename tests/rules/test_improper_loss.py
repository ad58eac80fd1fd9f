from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.rules.improper_loss import ImproperLoss

POOR: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.25}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"loss": "bce_logits", "targets": "signed", "steps": 1}, "error", id="labels -1 and 1"),
        pytest.param({"loss": "bce", "targets": "index", "steps": 1}, "error", id="class indices"),
        pytest.param({"loss": "ce", "targets": "index", "output_units": 1, "steps": 1}, "error", id="one output"),
        pytest.param({"loss": "bce", "losses": lambda t: -0.1 * t, "steps": 20}, "error", id="negative"),
        pytest.param(
            {"loss": "mse", "targets": "one_hot", "output_units": 4, "scalars": {"squared_error": 0.19}} | POOR,
            "error",
            id="squared error for classes, at chance",
        ),
        pytest.param({"loss": "mse", "targets": "one_hot", "output_units": 4}, None, id="squared error, learns"),
        pytest.param({"loss": "mse", "targets": "binary"}, None, id="squared error for two classes, learns"),
        pytest.param({"loss": "bce", "targets": "one_hot", "output_units": 4}, None, id="bce over one-hot, learns"),
        pytest.param({"loss": "bce"}, None, id="bce"),
        pytest.param({"loss": "ce", "targets": "index", "output_units": 4}, None, id="ce"),
        pytest.param({"loss": "mse", "targets": "real", "scalars": {"squared_error": 2.0}}, None, id="regression"),
        pytest.param({"loss": "custom", "losses": lambda t: -1.0}, None, id="a loss that may be negative"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = ImproperLoss().check(*build(**case))
    assert (found.severity if found else None) == expected
