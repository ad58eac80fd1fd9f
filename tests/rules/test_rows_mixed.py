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


@pytest.mark.parametrize(
    ("accuracy", "severity"), [(0.5, Severity.ERROR), (0.75, Severity.WARNING), (0.99, Severity.WARNING)]
)
@pytest.mark.parametrize(("kind", "words"), [(1, "batch_first=True"), (2, "transpose or permute")])
def test_rows_in_the_place_of_time(
    build: Callable[..., Any], kind: float, words: str, accuracy: float, severity: Severity
) -> None:
    asked = {"mixed_rows": kind, "mixed_rows_layer": 1.0}
    outcome = {"losses": lambda t: 1.2 - accuracy, "scalars": {"accuracy": accuracy}, "steps": 600}
    finding = RowsMixed().check(*build(asked=asked, **outcome))
    assert (finding.severity, finding.layers) == (severity, ("fc2",))
    assert words in finding.message


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


@pytest.mark.parametrize(
    ("accuracy", "steps", "severity"),
    [
        pytest.param(0.55, 500, Severity.ERROR, id="poor"),
        pytest.param(0.55, 100, Severity.WARNING, id="early"),
        pytest.param(0.99, 500, Severity.INFO, id="learns all the same"),
    ],
)
def test_states_of_shuffled_rows(build: Callable[..., Any], accuracy: float, steps: int, severity: Severity) -> None:
    run = {"losses": lambda t: 0.68 if accuracy < 0.9 else 0.05, "scalars": {"accuracy": accuracy}, "steps": steps}
    finding = RowsMixed().check(*build(asked={"state_of_shuffled_rows": 1.0}, **run))
    assert finding is not None
    assert finding.severity is severity
    assert RowsMixed().check(*build(**run)) is None
