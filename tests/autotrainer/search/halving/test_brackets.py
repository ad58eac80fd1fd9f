"""Successive halving."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.search.halving.brackets import Bracket, rungs, width_within


@pytest.mark.parametrize(
    ("epochs", "steps", "lengths"),
    [
        (1, None, [1]),
        (3, None, [1, 3]),
        (9, None, [1, 3, 9]),
        (100, None, [11, 33, 100]),
        (100, 10_000, [11, 33, 100]),
        (100, 400, [25, 33, 100]),
        (5, 25, [5]),
    ],
)
def test_rungs(epochs: int, steps: int | None, lengths: list[int]) -> None:
    assert rungs(epochs, steps) == lengths


def test_best_third_is_promoted() -> None:
    bracket = Bracket(list("abcdefghi"), [1, 3, 9])
    trained: dict[int, list[str]] = {}
    while (pending := bracket.next()) is not None:
        entry, epochs = pending
        trained.setdefault(epochs, []).append(entry)
        bracket.add(entry, math.nan if entry == "i" else float(ord(entry)))
    assert trained == {1: list("abcdefghi"), 3: ["h", "g", "f"], 9: ["h"]}


def test_key_decides_order_and_failures_are_not_promoted() -> None:
    bracket = Bracket(list("abc"), [1, 3], lambda score: -score)
    for score in (2.0, 1.0, 3.0):
        entry, _ = bracket.next() or ("", 0)
        bracket.add(entry, score)
    assert bracket.next() == ("b", 3)
    failed = Bracket(list("abc"), [1, 3])
    for entry in "abc":
        assert failed.next() == (entry, 1)
        failed.add(entry, math.nan)
    assert failed.next() is None


@given(left=st.floats(0, 20), epochs=st.integers(1, 500))
def test_bracket_stays_within_remaining_work(left: float, epochs: int) -> None:
    lengths = rungs(epochs)
    width = width_within(left, lengths)
    assert width == 0 or 2 <= width <= 9
    bracket, work = Bracket(range(width), lengths), 0.0
    while (pending := bracket.next()) is not None:
        work += pending[1] / epochs
        bracket.add(pending[0], 0.0)
    assert work <= left + 1e-9
