from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.poor_initialization import PoorInitialization

STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"table": {"weight_norm": 0.0}, "steps": 1}, "error", id="all zero"),
        pytest.param({"table": {"weight_norm": [2.0, 2.0, 0.0]}} | STUCK, None, id="zero output layer"),
        pytest.param({"table": {"activation_spread": [0.5, 1e-6, 1e-6]}, "steps": 1}, "warning", id="fades"),
        pytest.param({"table": {"activation_spread": [0.5, 1e-6, 1e-6]}} | STUCK, "error", id="fades, stuck"),
        pytest.param({"table": {"activation_spread": [0.5, 1e-6, 1e-6]}}, None, id="fades, but learns"),
        pytest.param({"table": {"activation_spread": [0.5, 1e4, 1e4]}, "steps": 1}, "warning", id="grows"),
        pytest.param({"table": {"activation_spread": [500.0, 800.0, 1.0]}, "steps": 1}, "warning", id="large"),
        pytest.param({"table": {"activation_spread": np.nan}} | STUCK, None, id="not measured"),
        pytest.param(STUCK, None, id="usual spread, stuck"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    found = PoorInitialization().check(*build(**case))
    assert (found.severity if found else None) == expected
