from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from autotrainer import load_plan, registry
from autotrainer.edits import ScaleInputs, SetLearningRate, SetLoss
from autotrainer.errors import ConfigError
from autotrainer.reporting.plan import RepairPlan
from autotrainer.testing import FakeBackend, FakeModel, Outcome

PLAN = RepairPlan(
    ("scale_inputs", "fix_loss"),
    (ScaleInputs((1.0, 2.0), (3.0, 4.0)), SetLoss("cross_entropy", "logits"), SetLearningRate(0.01)),
    ("abnormal_data", "improper_loss"),
)


def test_plan_survives_a_file(tmp_path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json())
    assert load_plan(path) == PLAN


def test_notes_come_first() -> None:
    assert PLAN.changes == ("input", "loss")
    text = str(PLAN)
    assert text.index("input, loss") < text.index("1. ")
    assert "lr" in text
    assert RepairPlan(("x",), (SetLearningRate(0.01),)).changes == ()


def test_places_in_the_users_code_are_named_and_kept() -> None:
    plan = replace(PLAN, places={"improper_loss": "train.py:12"}, start=3)
    assert "To fix abnormal_data, improper_loss (train.py:12):" in str(plan)
    assert "Apply this from the start of epoch 3 (the first epoch is 0)" in str(plan)
    again = RepairPlan.from_dict(json.loads(plan.to_json()))
    assert (again.places, again.start) == (plan.places, 3)
    assert plan == replace(PLAN, start=3), "a place is not part of what is changed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't read"),
        ("[]", "does not hold a repair plan"),
        ("{}", "not a repair plan of format 1"),
        ('{"autotrainer_plan": 1}', "incomplete"),
        (PLAN.to_json().replace("SetLoss", "SetLos"), "did you mean 'SetLoss'"),
        (PLAN.to_json().replace('"value"', '"valu"'), "did you mean 'value'"),
        (PLAN.to_json().replace("0.01", "1e999"), "value must be a number > 0, not inf"),
        ("[" * 100_000, "can't read"),
        (PLAN.to_json().replace("0.01", "9" * 5000), "can't read"),
    ],
)
def test_bad_files_get_a_clear_error(tmp_path, text, message) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_plan(path)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        load_plan(tmp_path / "none.json")


NESTED: Any = []
for _ in range(10_000):
    NESTED = [NESTED]


WRONG: list[Any] = [None, 3, -1, True, 1.5, math.inf, 10**5000, object(), [3], [None], {"a": 1}, NESTED]


@pytest.mark.parametrize("name", ["repairs", "problems", "layers", "edits", "framework", "start", "places"])
@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
def test_crafted_plans_are_refused(name: str, value: Any) -> None:
    if name == "start" and value == 3:
        return
    with pytest.raises(ConfigError):
        RepairPlan.from_dict({**json.loads(PLAN.to_json()), name: value})
    with pytest.raises(ConfigError, match=f"`{name}` of a repair plan must be"):
        replace(PLAN, **{name: value})


@pytest.mark.parametrize("values", [None, [], "plan", 3, {"autotrainer_plan": [[]]}, {"autotrainer_plan": 2}])
def test_values_that_are_not_a_plan_are_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match="not a repair plan of format 1"):
        RepairPlan.from_dict(values)


def test_whatever_fails_while_a_plan_is_applied_is_an_error_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backend(FakeBackend):
        def apply(self, edits: Any, model: Any, optimizer: Any) -> Any:
            raise MemoryError("no room for 10**12 units")

    monkeypatch.setattr(registry, "backends", lambda: (Backend(),))
    with pytest.raises(ConfigError, match="can't be applied to this FakeModel: no room for"):
        replace(PLAN, framework="fake").apply(FakeModel(lambda edits: Outcome()))
