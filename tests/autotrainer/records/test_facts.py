from __future__ import annotations

from autotrainer.records.facts import FACTS


def test_each_fact_has_a_name_of_its_own() -> None:
    assert len(set(FACTS)) == len(FACTS)
