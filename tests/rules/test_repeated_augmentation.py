from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotrainer.rules.repeated_augmentation import RepeatedAugmentation


@pytest.mark.parametrize(
    ("facts", "expected", "words"),
    [
        ({"workers_draw_alike": 1.0, "passes_draw_alike": 0.0}, "warning", "same random numbers: seed"),
        ({"workers_draw_alike": 1.0, "passes_draw_alike": 1.0}, "warning", "in each pass"),
        ({"workers_draw_alike": 0.0, "passes_draw_alike": 1.0}, "info", "in each pass"),
        ({"passes_draw_alike": 1.0}, "info", "in each pass"),
        ({"workers_read_alike": 1.0}, "warning", "not divided"),
        ({"workers_draw_alike": 0.0, "passes_draw_alike": 0.0}, None, ""),
        ({"workers_read_alike": 0.0}, None, ""),
        ({}, None, ""),
    ],
)
def test_facts(build: Callable[..., Any], facts: dict[str, float], expected: str | None, words: str) -> None:
    finding = RepeatedAugmentation().check(*build(asked=facts))
    assert (finding and str(finding.severity)) == expected
    assert finding is None or (words in finding.message and finding.evidence == facts)
