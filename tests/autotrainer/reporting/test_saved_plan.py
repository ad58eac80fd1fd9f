"""Plans that version 0.1 wrote load unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import autotrainer

SAVED = Path(__file__).parent / "saved" / "plan.json"


def test_saved_plan_with_every_edit_loads_unchanged() -> None:
    plan = autotrainer.load_plan(SAVED)
    assert json.loads(plan.to_json()) == json.loads(SAVED.read_text("utf-8"))
    assert len(plan.edits) == len({type(edit) for edit in plan.edits}) >= 39
