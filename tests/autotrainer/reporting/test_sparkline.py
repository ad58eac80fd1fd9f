"""Curves in little space: bars of text and a small picture."""

from __future__ import annotations

import math
import re

import pytest

from autotrainer.reporting.outcome import Points
from autotrainer.reporting.sparkline import bars, picture

NAN, INF = math.nan, math.inf


def _points(*values: float) -> Points:
    return tuple((float(i), value) for i, value in enumerate(values))


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ((), 10, ""),
        ((NAN, INF), 10, ""),
        ((0.0, 7.0), 10, "▁█ 0 → 7"),
        ((0, 1, 2, 3, 4, 5, 6, 7), 10, "▁▂▃▄▅▆▇█ 0 → 7"),
        ((0, 0, 7, 7), 2, "▁█ 0 → 7"),
        ((3.0, 3.0), 10, "▅▅ 3 → 3"),
        ((1.0, 10.0, 100.0), 10, "▁▅█ 1 → 100"),  # logarithmic
        ((-1.0, 10.0, 100.0), 10, "▁▂█ -1 → 100"),
        ((1.0, INF, 2.0), 10, "▁×█ 1 → 2"),
        ((1.0, 2.0, NAN), 10, "▁█× 1 → –"),
    ],
)
def test_bars(values: tuple[float, ...], width: int, expected: str) -> None:
    assert bars(_points(*values), width) == expected


def test_picture_breaks_where_values_are_not_finite() -> None:
    path = re.search(r' d="([^"]+)"', picture(_points(1.0, 2.0, INF, 1.0, 2.0), "loss"))
    assert path is not None
    assert [command[0] for command in re.findall(r"[ML][^ML]+", path[1])] == ["M", "L", "M", "L"]


@pytest.mark.parametrize("values", [(), (1.0,), (NAN, NAN), (INF, 1.0)])
def test_picture_needs_two_finite_values(values: tuple[float, ...]) -> None:
    assert picture(_points(*values), "loss") == ""


def test_long_curves_stay_small() -> None:
    values = _points(*(float(i) for i in range(100_000)))
    assert len(picture(values, "loss")) < 4_000
    assert len(bars(values, 60)) < 80
