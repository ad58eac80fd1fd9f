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
