from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autotrainer.rules.target_mismatch import TargetMismatch
from autotrainer.task import TargetSummary

FRACTIONS = TargetSummary(600, 600, 1, 1, False, False, 0.0, 0.04, 0.02, 1e-4)
FROM_ONE = TargetSummary(
    600, 600, 1, 1, True, True, 1.0, 3.0, 2.0, 0.7, values=(1.0, 2.0, 3.0), classes=3, majority=0.34
)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(
            {"loss": "mse", "targets": "flat", "losses": lambda t: 2.0, "scalars": {"squared_error": 1.3}},
            "error",
            id="broadcast",
        ),
        pytest.param(
            {"loss": "mse", "targets": "flat", "losses": lambda t: 1.3, "scalars": {"squared_error": 1.3}},
            None,
            id="same shape",
        ),
        pytest.param(
            {"loss": "mse", "targets": "flat", "scalars": {"squared_error": 1.3, "batch_size": 1024}},
            None,
            id="only some rows copied",
        ),
        pytest.param(
            {"loss": "scce", "targets": "index", "output_units": 3, "steps": 1}, "error", id="label too large"
        ),
        pytest.param({"loss": "scce", "targets": FRACTIONS, "output_units": 10, "steps": 1}, "error", id="fractions"),
        pytest.param({"loss": "cce", "targets": "one_hot", "output_units": 3, "steps": 1}, "error", id="other width"),
        pytest.param(
            {"loss": "ce", "targets": FROM_ONE, "output_units": 4, "scalars": {"accuracy": 0.3}},
            "warning",
            id="from one",
        ),
        pytest.param({"loss": "ce", "targets": FROM_ONE, "output_units": 4}, None, id="from one, learns"),
        pytest.param({"loss": "ce", "targets": "index", "output_units": 4}, None, id="indices"),
        pytest.param({"loss": "ce", "targets": "one_hot", "output_units": 4}, None, id="one-hot to torch"),
        pytest.param({"loss": "mse", "targets": "real", "scalars": {"squared_error": 9.0}}, None, id="columns"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = TargetMismatch().check(*build(**case))
    assert (found.severity if found else None) == expected


def test_keras_squeezes_by_itself(build: Callable[..., Any]) -> None:
    history, context = build(loss="mse", targets="flat", losses=lambda t: 2.0, scalars={"squared_error": 1.3})
    assert TargetMismatch().check(history, replace(context, framework="keras3")) is None
