from __future__ import annotations

import pytest

from autotrainer.errors import nearest


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("balanced", "did you mean 'balance'?"),
        ("zzz", "known: balance, structure"),
        ("", "known: balance, structure"),
    ],
)
def test_nearest(name: str, hint: str) -> None:
    assert nearest(name, ["structure", "balance", "balance"]) == hint


def test_of_many_names_the_nearest_few_are_told() -> None:
    names = [f"problem_{i}" for i in range(40)]
    hint = nearest("q7", names)
    assert hint.startswith("the nearest of 40 known names: ")
    assert "problem_7" in hint
    assert hint.count(",") == 4
