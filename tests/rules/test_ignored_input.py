from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.rules.ignored_input import IgnoredInput


def _facts(gain: float, error: float, linear: float | None = None) -> dict[str, float]:
    facts = {"train_score": 0.5 + gain, "permuted_score": 0.5, "input_gain": gain, "input_gain_error": error}
    if linear is not None:
        facts |= {"linear_score": linear, "neighbour_score": 0.5, "trivial_score": 0.5, "held_out_rows": 300.0}
    return facts


CASES = [
    pytest.param(_facts(0.0, 0.0, 0.93), Severity.ERROR, id="constant outputs, linear model works"),
    pytest.param(_facts(0.01, 0.03, 0.8), Severity.ERROR, id="useless outputs"),
    pytest.param(_facts(0.0, 0.0, 0.52), Severity.WARNING, id="nothing predicts the targets"),
    pytest.param(_facts(0.0, 0.0), Severity.WARNING, id="simple models not scored"),
    pytest.param(_facts(0.45, 0.02, 0.93), None, id="learned"),
    pytest.param(_facts(0.05, 0.02, 0.93), None, id="a little is learned"),
    pytest.param(_facts(0.03, 0.2, 0.93), None, id="too few rows to tell"),
    pytest.param(_facts(0.5, 0.02, 0.5), None, id="memorized"),
    pytest.param(_facts(float("nan"), 0.0, 0.93), None, id="not finite"),
    pytest.param({}, None, id="not measured"),
]


@pytest.mark.parametrize(("facts", "severity"), CASES)
def test_correct_and_permuted_inputs(
    build: Callable[..., Any], facts: dict[str, float], severity: Severity | None
) -> None:
    finding = IgnoredInput().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity


def test_message_names_the_best_simple_model(build: Callable[..., Any]) -> None:
    finding = IgnoredInput().check(*build(asked=_facts(0.0, 0.0, 0.93)))
    assert finding is not None
    assert "A linear model reaches 0.93 on 300 held-out rows." in finding.message
    assert finding.evidence["simple_score"] == 0.93


@pytest.mark.parametrize("kind", ["field", "column"])
def test_an_input_or_column_that_nothing_depends_on(build: Callable[..., Any], kind: str) -> None:
    history, context = build(asked={f"input_{kind}s": 3.0, f"ignored_{kind}s": 1.0, f"ignored_{kind}": 1.0})
    finding = IgnoredInput().check(history, replace(context, input_fields=("image", "age", "place")))
    assert finding is not None
    assert finding.severity is Severity.WARNING
    assert ("'age'" if kind == "field" else "column 1") in finding.message
    assert IgnoredInput().check(*build(asked={f"input_{kind}s": 3.0, f"ignored_{kind}s": 0.0})) is None
