from __future__ import annotations

import numpy as np
import pytest

from autotrainer.monitoring.weight_patterns import is_freshly_initialized, recurrent_form, weight_form

RNG = np.random.default_rng(0)
UNIT, INPUT = RNG.normal(size=(1, 3, 2)), RNG.normal(size=(4, 1, 2))


@pytest.mark.parametrize(
    ("matrix", "form"),
    [
        (RNG.normal(size=(4, 3, 2)), ""),
        (np.zeros((4, 3, 2)), "zero"),
        (np.zeros((1, 1, 1)), "zero"),
        (np.full((4, 3, 2), 0.5), "constant"),
        (np.full((4, 1, 1), 0.5), "constant"),
        (np.repeat(UNIT, 4, axis=0), "equal_units"),
        (np.repeat(UNIT[:, :1], 4, axis=0), "equal_units"),
        (np.repeat(INPUT, 3, axis=1), "equal_inputs"),
        (UNIT, ""),
        (INPUT, ""),
        (np.full((4, 3, 2), np.nan), ""),
    ],
)
def test_weight_form(matrix: np.ndarray, form: str) -> None:
    assert weight_form(matrix) == form


@pytest.mark.parametrize(("values", "form"), [((0.5, 0.1), "constant"), ((0.5, 0.0), "constant"), ((0.0, 0.0), "")])
def test_recurrent_form(values: tuple[float, float], form: str) -> None:
    assert recurrent_form([np.full((3, 2), value) for value in values]) == form
    assert recurrent_form([RNG.normal(size=(3, 2)), np.full((2, 2), values[0])]) == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RNG.uniform(-0.5, 0.5, 400), True),
        (RNG.uniform(-0.2, 0.2, 400), True),
        (RNG.normal(0, 0.1, 5000), True),
        (RNG.uniform(-0.4, 0.4, 400), False),
        (RNG.uniform(-0.5, 0.5, 400) + RNG.normal(0, 0.05, 400), False),
        (RNG.normal(0, 0.12, 5000), False),
        (RNG.standard_t(4, 5000) * 0.1 / np.sqrt(2), False),
        (RNG.normal(0, 0.1, 400), False),
        (RNG.uniform(-0.5, 0.5, 20), False),
        (np.zeros(400), False),
        (np.full(400, np.nan), False),
        (np.where(np.arange(400) % 2, 0.5, -0.5), False),
    ],
    ids=["uniform", "narrow", "normal", "bound", "noise", "wide", "tails", "few normal", "few", "zero", "nan", "ends"],
)
def test_freshly_initialized_weights(values: np.ndarray, expected: bool) -> None:
    assert is_freshly_initialized(values, (0.5, 0.2), (0.1,)) is expected
