"""A run log of version 0.1 replays to its original findings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import autotrainer

SAVED = Path(__file__).parent / "saved"
FIELDS = ("problem", "code", "severity", "step", "epoch", "layers", "caused_by")


def test_saved_log_replays_to_the_same_findings() -> None:
    before = json.loads((SAVED / "report.json").read_text("utf-8"))
    now = json.loads(autotrainer.replay(SAVED / "run.jsonl").to_json())
    assert [[f[name] for name in FIELDS] for f in now["findings"]] == [
        [f[name] for name in FIELDS] for f in before["findings"]
    ]
    for new, old in zip(now["findings"], before["findings"], strict=True):
        assert new["evidence"] == pytest.approx(old["evidence"])
    assert {name: now["run"][name] for name in before["run"]} == pytest.approx(before["run"])
    assert list(now["curves"]) == list(before["curves"])
    for name, points in before["curves"].items():  # shown with six digits
        np.testing.assert_allclose(now["curves"][name], points, rtol=1e-5)
