from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autotrainer import load_plan
from autotrainer.edits import EDITS, ClipGradients, ScaleInputs, SetLearningRate, SetLoss, edit_from_dict
from autotrainer.errors import ConfigError
from autotrainer.reporting.plan import RepairPlan

PLAN = RepairPlan(
    ("scale_inputs", "fix_loss"),
    (ScaleInputs((1.0, 2.0), (3.0, 4.0)), SetLoss("cross_entropy", "logits"), SetLearningRate(0.01)),
    ("abnormal_data", "improper_loss"),
)


def test_plan_survives_a_file(tmp_path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json())
    assert load_plan(path) == PLAN


def test_what_a_user_must_know_comes_first() -> None:
    assert PLAN.changes == ("input", "loss")
    text = str(PLAN)
    assert text.index("input, loss") < text.index("1. ")
    assert "lr" in text
    assert RepairPlan(("x",), (SetLearningRate(0.01),)).changes == ()


def test_places_in_the_users_code_are_told_and_kept() -> None:
    plan = replace(PLAN, places={"improper_loss": "train.py:12"}, start=3)
    assert "Against abnormal_data, improper_loss (train.py:12):" in str(plan)
    assert "From the beginning of epoch 3 on" in str(plan)
    again = RepairPlan.from_dict(json.loads(plan.to_json()))
    assert (again.places, again.start) == (plan.places, 3)
    assert plan == replace(PLAN, start=3), "a place is no part of what is changed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't read"),
        ("[]", "no repair plan"),
        ("{}", "no repair plan of format 1"),
        ('{"autotrainer_plan": 1}', "incomplete"),
        (PLAN.to_json().replace("SetLoss", "SetLos"), "did you mean 'SetLoss'"),
        (PLAN.to_json().replace('"value"', '"valu"'), "did you mean 'value'"),
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


def test_incomplete_edit() -> None:
    with pytest.raises(ConfigError, match="incomplete"):
        edit_from_dict({"edit": "ClipGradients", "kind": "norm"})


def test_edits_are_values() -> None:
    assert ClipGradients("norm", 1.0) == edit_from_dict(json.loads(json.dumps(ClipGradients("norm", 1.0).to_dict())))
    assert all(0 <= cls.change <= 3 for cls in EDITS.values())
