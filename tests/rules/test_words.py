from __future__ import annotations

import pytest

from autotrainer.rules._shared.words import about


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (1387.0, 2, "1400"),
        (70.0, 1, "70"),
        (-4290.0, 3, "-4290"),
        (999_999.0, 2, "1000000"),
        (2.5e9, 2, "2.5e+09"),
        (0.01234, 2, "0.012"),
        (3e-7, 1, "3e-07"),
        (82.0, 3, "82"),
        (0.0, 2, "0"),
    ],
)
def test_large_numbers_are_written_out(value: float, digits: int, expected: str) -> None:
    assert about(value, digits) == expected
