from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.records.signals import LayerInfo
from autotrainer.rules.rows_mixed import RowsMixed

MIXED = {"row_effect": 0.1, "row_noise": 1e-5, "row_effect_without_norm": 0.1}
CASES = [
    pytest.param({"row_effect": 0.0, "row_noise": 1e-5}, None, id="apart"),
    pytest.param({"row_effect": 1e-4, "row_noise": 1e-5}, None, id="a trace"),
    pytest.param({"row_effect": 0.1, "row_noise": 0.5, "row_effect_without_norm": 0.1}, None, id="rounding"),
    pytest.param({"row_effect": 0.1, "row_noise": 1e-5, "row_effect_without_norm": 0.1}, Severity.ERROR, id="mixed"),
    pytest.param({"row_effect": 0.1, "row_noise": 1e-5, "row_effect_without_norm": 0.0}, Severity.WARNING, id="norm"),
    pytest.param({}, None, id="not probed"),
    pytest.param({**MIXED, "row_order_effect": 0.3}, Severity.ERROR, id="axes exchanged"),
    pytest.param({**MIXED, "row_order_effect": 0.0}, Severity.WARNING, id="a set of rows"),
]


@pytest.mark.parametrize(("facts", "severity"), CASES)
def test_effect_of_another_row(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None) -> None:
    finding = RowsMixed().check(*build(asked=facts, losses=lambda t: 0.5, scalars={"accuracy": 0.75}))
    assert (None if finding is None else finding.severity) == severity


def test_outcome_and_kind_of_model_decide_whether_a_set_of_rows_is_meant(build: Callable[..., Any]) -> None:
    asked = {**MIXED, "row_order_effect": 0.0}
    stuck = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}, "steps": 600}
    fair = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.75}}
    good = {"losses": lambda t: 0.05, "scalars": {"accuracy": 0.99}, "steps": 600}
    sequences = [
        LayerInfo(name, kind, None, 16, 100) for name, kind in (("a", "embedding"), ("b", "norm"), ("c", "dense"))
    ]
    severities = [
        RowsMixed().check(*build(asked=facts, **options)).severity
        for facts, options in (
            (asked, stuck),
            (asked, good),
            ({**asked, "row_order_effect": 0.3}, good),
            (asked, {"layers": sequences, **fair}),
            (asked, {"layers": sequences, "loss": "custom", **fair}),
        )
    ]
    expected = [Severity.ERROR, Severity.WARNING, Severity.WARNING, Severity.ERROR, Severity.WARNING]
    assert severities == expected
