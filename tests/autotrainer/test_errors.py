from __future__ import annotations

import pytest

from autotrainer.errors import nearest


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("balanced", "did you mean 'balance'?"),
        ("zzz", "valid names: balance, structure"),
        ("", "valid names: balance, structure"),
    ],
)
def test_hint_names_the_closest(name: str, hint: str) -> None:
    assert nearest(name, ["structure", "balance", "balance"]) == hint


def test_hint_lists_the_closest_of_many_names() -> None:
    names = [f"problem_{i}" for i in range(40)]
    hint = nearest("q7", names)
    assert hint.startswith("the closest of 40 valid names: ")
    assert "problem_7" in hint
    assert hint.count(",") == 4
