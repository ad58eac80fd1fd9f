from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.rules.rows_mixed import RowsMixed

CASES = [
    pytest.param({"row_effect": 0.0, "row_noise": 1e-5}, None, id="apart"),
    pytest.param({"row_effect": 1e-4, "row_noise": 1e-5}, None, id="a trace"),
    pytest.param({"row_effect": 0.1, "row_noise": 0.5, "row_effect_without_norm": 0.1}, None, id="rounding"),
    pytest.param({"row_effect": 0.1, "row_noise": 1e-5, "row_effect_without_norm": 0.1}, Severity.ERROR, id="mixed"),
    pytest.param({"row_effect": 0.1, "row_noise": 1e-5, "row_effect_without_norm": 0.0}, Severity.WARNING, id="norm"),
    pytest.param({}, None, id="not probed"),
]


@pytest.mark.parametrize(("facts", "severity"), CASES)
def test_effect_of_another_row(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None) -> None:
    finding = RowsMixed().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity
