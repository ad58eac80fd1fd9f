from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.rules.nonfinite_data import NonFiniteData

LATER = {"batches_looked_through": 40.0, "nonfinite_batches": 2.0}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param({"scalars": {"input_nonfinite": 0.01}, "steps": 1}, "error", id="inputs"),
        pytest.param({"scalars": {"target_nonfinite": 0.01}, "losses": lambda t: np.inf}, "error", id="targets"),
        pytest.param({"scalars": {"input_nonfinite": 0.01}}, "warning", id="masked by the model"),
        pytest.param(
            {"scalars": {"input_nonfinite": 0.01}, "table": {"grad_norm": lambda t: np.inf if t > 20 else 0.3}},
            "error",
            id="hidden from the loss by a ReLU, not from the gradients",
        ),
        pytest.param({"scalars": {"input_nonfinite": np.nan, "target_nonfinite": np.nan}}, None, id="not measured"),
        pytest.param({}, None, id="finite"),
        pytest.param(
            {"losses": lambda t: np.inf if t > 20 else 0.5, "asked": LATER},
            "error",
            id="found after the loss became non-finite",
        ),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = NonFiniteData().check(*build(**case))
    assert (finding.severity if finding else None) == expected
