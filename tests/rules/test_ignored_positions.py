from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.rules.ignored_positions import IgnoredPositions


def _order(effect: float, attention: float = 1, **other: float) -> dict[str, float]:
    return {"order_effect": effect, "order_noise": 1e-4, "attention": attention, "predicts_next": 0, **other}


CASES = [
    pytest.param(_order(0.3), None, id="order matters"),
    pytest.param(_order(0.0), Severity.WARNING, id="attention"),
    pytest.param(_order(0.0, order_conflicts=0.3), Severity.ERROR, id="targets out of reach"),
    pytest.param(_order(0.0, 0, order_conflicts=0.3), Severity.ERROR, id="targets out of reach of a bag"),
    pytest.param(_order(0.0, 0, order_conflicts=0.0), Severity.INFO, id="bag of words"),
    pytest.param(_order(0.0, order_in_inputs=-20), Severity.WARNING, id="series"),
    pytest.param(_order(0.0, order_in_inputs=0.3), Severity.INFO, id="set"),
    pytest.param(_order(0.0, predicts_next=1), Severity.WARNING, id="language model"),
    pytest.param({**_order(0.0), "order_noise": 1.2}, None, id="all is rounding"),
    pytest.param({}, None, id="not probed"),
]


@pytest.mark.parametrize(("facts", "severity"), CASES)
def test_effect_of_order(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None) -> None:
    finding = IgnoredPositions().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity
