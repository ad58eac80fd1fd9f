"""Properties of all rules: healthy runs have no findings, and no measurement makes a rule raise."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotrainer import registry
from autotrainer.monitoring.engine import Engine
from autotrainer.records.findings import Severity
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS
from autotrainer.rules import BUILTIN

REAL = {"scalars": {"squared_error": lambda t: 0.05 + np.exp(-t / 60)}, "losses": lambda t: 0.05 + np.exp(-t / 60)}

HEALTHY = [
    pytest.param({}, id="two classes"),
    pytest.param({"planned_epochs": None}, id="no schedule"),
    pytest.param({"targets": "index", "loss": "ce", "output_units": 4}, id="classes"),
    pytest.param({"targets": "multilabel", "output_units": 4}, id="several labels"),
    pytest.param({"targets": "real", "loss": "mse", **REAL}, id="regression"),
    pytest.param(
        {"epochs": {"val_accuracy": lambda e: 0.95 - 0.4 * np.exp(-e / 3), "val_loss": lambda e: 0.2 + np.exp(-e / 3)}},
        id="with validation",
    ),
    pytest.param(
        {"targets": "real", "loss": "custom", "table": dict.fromkeys(LAYER_COLUMNS, np.nan)}, id="only a loss"
    ),
]


@pytest.mark.parametrize("steps", [1, 5, 12, 40, 130, 300, 600])
@pytest.mark.parametrize("case", HEALTHY)
def test_healthy_runs_are_silent_at_any_time(build: Callable[..., Any], case: dict[str, Any], steps: int) -> None:
    findings = Engine(registry.make_rules()).evaluate(*build(**case, steps=steps))
    assert findings == []


def test_silent_rules_are_not_disabled(build: Callable[..., Any]) -> None:
    engine = Engine(registry.make_rules())
    engine.evaluate(*build())
    assert len(engine.rules) == len(registry.rules())


odd = st.sampled_from([0.0, -1.0, 1e-300, 1e300, np.nan, np.inf, 0.5, 300.0])
losses = st.sampled_from(["bce", "bce_logits", "ce", "cce", "scce", "nll", "mse", "custom"])
targets = st.sampled_from(["binary", "signed", "index", "one_hot", "multilabel", "real", "flat", "large"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    loss=losses,
    kind=targets,
    steps=st.sampled_from([1, 2, 7, 60]),
    planned=st.sampled_from([None, 1, 4]),
)
def test_rules_never_raise_on_any_measurement(
    build: Callable[..., Any], data: st.DataObject, loss: str, kind: str, steps: int, planned: int | None
) -> None:
    scalars = {name: data.draw(odd, name) for name in STEP_COLUMNS if data.draw(st.booleans())}
    table = {name: data.draw(odd, name) for name in LAYER_COLUMNS if data.draw(st.booleans())}
    late = data.draw(odd, "late loss")
    epochs = {name: data.draw(odd, name) for name in ("loss", "val_loss", "accuracy", "val_accuracy")}
    run = build(
        steps=steps,
        loss=loss,
        targets=kind,
        scalars=scalars,
        table=table,
        losses=lambda t: 0.5 if t < steps // 2 else late,
        epochs={name: lambda e, value=value: value for name, value in epochs.items()},
        planned_epochs=planned,
        per_epoch=3,
        output_units=data.draw(st.sampled_from([None, 1, 4])),
        output_activation=data.draw(st.sampled_from([None, "softmax", "sigmoid", "relu", "linear", "odd"])),
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # as the engine does
        warnings.simplefilter("error")
        for rule in BUILTIN:
            finding = rule().check(*run)
            if finding is not None:
                assert finding.problem == rule.problem
                assert finding.message.endswith(".")
                assert 0 <= finding.confidence <= 1


@pytest.mark.parametrize("since", [0, 300])
@pytest.mark.parametrize("loss", ["ce", "cce", "custom"])
@pytest.mark.parametrize("column", [*STEP_COLUMNS, *LAYER_COLUMNS])
def test_messages_contain_no_nan_or_inf(build: Callable[..., Any], column: str, loss: str, since: int) -> None:
    broken = {column: lambda t: np.inf if t >= since else 0.5}
    case = {"scalars": broken} if column in STEP_COLUMNS else {"scalars": {"accuracy": 0.25}, "table": broken}
    history, context = build(targets="index", loss=loss, output_units=4, losses=lambda t: 1.4, **case)
    findings = Engine(registry.make_rules()).evaluate(history, context)
    assert [f.message for f in findings if re.search(r"\b(inf|nan)\b", f.message)] == []


def test_without_a_schedule_verdicts_by_schedule_are_warnings(build: Callable[..., Any]) -> None:
    faded = {"grad_norm": [1e-9, 1e-6, 1e-2], "dead_units": [0.8, 0.8, np.nan]}
    run = build(losses=lambda t: 0.7, scalars={"accuracy": 0.5}, table=faded, planned_epochs=None)
    findings = Engine(registry.make_rules()).evaluate(*run)
    assert {f.problem for f in findings} == {"vanishing_gradient", "dying_relu", "not_learning"}
    assert all(f.severity is Severity.WARNING for f in findings)


def test_roots_come_before_consequences(build: Callable[..., Any]) -> None:
    table = {"grad_norm": [0.0, 0.0, 1e-2], "dead_units": [0.3, 1.0, np.nan]}
    run = build(losses=lambda t: 0.7, scalars={"accuracy": 0.5, "input_std": 90.0, "input_max_abs": 255.0}, table=table)
    findings = Engine(registry.make_rules()).evaluate(*run)
    assert [f.problem for f in findings][:2] == ["abnormal_data", "dying_relu"]
    assert findings[1].caused_by == "abnormal_data"
    assert {f.problem for f in findings if f.severity is Severity.ERROR} >= {
        "abnormal_data",
        "dying_relu",
        "not_learning",
    }
