from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.rules.replica_desync import ReplicaDesync

ALIKE = {"replicas": 4.0, "replica_steps": 10.0, "replica_gap": 0.0, "replica_worst_gap": 0.0, "replica_layer": 0.0}


@pytest.mark.parametrize(
    ("facts", "expected", "words"),
    [
        (ALIKE | {"replica_gap": 1e-3, "replica_worst_gap": 0.02, "replica_layer": 1.0}, "error", "layer fc2 (by 0.02"),
        (ALIKE | {"replica_gap": 0.5, "replica_worst_gap": 0.5, "replica_layer": 9.0}, "error", "differ: each"),
        (ALIKE | {"replica_worst_gap": 0.02, "replica_layer": 2.0}, "warning", "Some weights"),
        (ALIKE | {"replica_twins": 1.0}, "warning", "3 of 3 other processes"),
        (ALIKE | {"replica_twins": 1 / 3}, "warning", "1 of 3 other processes"),
        (ALIKE | {"replica_twins": 0.0}, None, ""),
        (ALIKE | {"replica_gap": 5e-7, "replica_worst_gap": 2e-6}, None, ""),
        (ALIKE | {"replica_gap": 0.5, "replica_worst_gap": 0.5, "replica_steps": 2.0}, None, ""),
        ({"replicas": 2.0, "replica_steps": 10.0}, None, ""),
        ({}, None, ""),
    ],
)
def test_facts(build: Callable[..., Any], facts: dict[str, float], expected: str | None, words: str) -> None:
    finding = ReplicaDesync().check(*build(asked=facts))
    assert (finding and str(finding.severity)) == expected
    assert finding is None or (words in finding.message and finding.evidence == facts)


def test_threshold(build: Callable[..., Any]) -> None:
    run = build(asked=ALIKE | {"replica_gap": 1e-3, "replica_worst_gap": 1e-3})
    assert ReplicaDesync(gap=0.01).check(*run) is None
