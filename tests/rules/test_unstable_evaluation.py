from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.records.findings import Severity
from autotrainer.rules.unstable_evaluation import UnstableEvaluation


def _noise(noise: float, source: float = 2, stable: float = 0) -> dict[str, float]:
    return {"evaluation_noise": noise, "noise_source": source, "stable_outputs": stable, "evaluation_state": 0.0}


CASES = [
    pytest.param(_noise(0.0), None, "", id="repeatable"),
    pytest.param(_noise(1e-4), None, "", id="a trace"),
    pytest.param(_noise(0.2), Severity.WARNING, "dropout is left on", id="dropout"),
    pytest.param(_noise(0.2, source=3), Severity.WARNING, "attention weights", id="dropout of attention"),
    pytest.param(_noise(0.2, source=1), Severity.WARNING, "random numbers", id="noise layer"),
    pytest.param(_noise(0.2, source=1, stable=2), Severity.INFO, "samples", id="variational"),
    pytest.param({"evaluation_state": 0.3, "evaluation_noise": 0.0}, Severity.INFO, "state", id="state"),
    pytest.param({}, None, "", id="not probed"),
]


@pytest.mark.parametrize(("facts", "severity", "words"), CASES)
def test_noise(build: Callable[..., Any], facts: dict[str, float], severity: Severity | None, words: str) -> None:
    finding = UnstableEvaluation().check(*build(asked=facts))
    assert (None if finding is None else finding.severity) == severity
    assert words in ("" if finding is None else finding.message)


def test_large_noise_and_a_poor_outcome_are_an_error(build: Callable[..., Any]) -> None:
    stuck = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}, "steps": 600}
    severities = [UnstableEvaluation().check(*build(asked=_noise(n), **stuck)) for n in (0.2, 0.8)]
    assert [f.severity for f in severities if f is not None] == [Severity.WARNING, Severity.ERROR]
