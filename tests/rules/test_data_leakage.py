from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.rules.data_leakage import DataLeakage


def _facts(shared: float, share: float, chance: float) -> dict[str, float]:
    return {"shared_inputs": shared, "shared_input_share": share, "expected_shared_share": chance}


CASES = [
    pytest.param(_facts(200, 1.0, 0.0), Severity.ERROR, id="validation is training"),
    pytest.param(_facts(20, 0.1, 0.0), Severity.ERROR, id="a tenth"),
    pytest.param(_facts(30, 0.033, 0.0), Severity.WARNING, id="as CIFAR-10"),
    pytest.param(_facts(300, 0.6, 0.4), Severity.ERROR, id="far beyond chance"),
    pytest.param(_facts(300, 0.6, 0.61), None, id="few possible values"),
    pytest.param(_facts(60, 0.6, 0.55), None, id="beyond chance by less than noise"),
    pytest.param(_facts(1, 0.02, 0.0), None, id="one pair"),
    pytest.param(_facts(4, 1.0, 0.0), None, id="a table of four rows"),
    pytest.param(_facts(50, 0.005, 0.0), None, id="one in two hundred"),
    pytest.param(_facts(0, 0.0, 0.0), None, id="nothing shared"),
    pytest.param({}, None, id="not measured"),
]


@pytest.mark.parametrize(("facts", "severity"), CASES)
def test_shared_rows(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None) -> None:
    finding = DataLeakage().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity


def test_message_has_the_numbers(build: Callable[..., Any]) -> None:
    finding = DataLeakage().check(*build(asked=_facts(90, 0.45, 0.05)))
    assert finding is not None
    assert "90 of 200 distinct validation inputs (45.0%)" in finding.message
    assert "chance explains 5.0%" in finding.message
    assert finding.repairs == ()


def test_thresholds_move_the_verdict(build: Callable[..., Any]) -> None:
    run = build(asked=_facts(30, 0.033, 0.0))
    finding = DataLeakage(share=0.03).check(*run)
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert DataLeakage(rows=40).check(*run) is None
