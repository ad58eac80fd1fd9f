"""Which targets are taken on a logarithmic scale."""

from __future__ import annotations

import numpy as np
import pytest

from autotrainer.edits import ScaleTargets
from autotrainer.errors import ConfigError
from autotrainer.training.target_scaling import TargetScaling

ROWS = 600
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(ROWS, 3))
PRICES = np.exp(8.0 + 2.0 * INPUTS[:, 0] + 0.1 * RNG.normal(size=ROWS))
LOGARITHM = ScaleTargets(logarithm=True)


def fit(targets: np.ndarray, inputs: np.ndarray | None = INPUTS, edit: ScaleTargets = LOGARITHM) -> ScaleTargets:
    scaling = TargetScaling(edit)
    for start in range(0, len(targets), 64):
        rows = slice(start, start + 64)
        scaling.add(targets[rows], None if inputs is None else inputs[rows])
    return scaling.fit()


@pytest.mark.parametrize("sign", [1, -1])
def test_targets_over_several_decades_become_normal(sign: int) -> None:
    edit = fit(sign * PRICES)
    values = (np.arcsinh((sign * PRICES - edit.log_center[0]) / edit.log_scale[0]) - edit.mean[0]) / edit.std[0]
    assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert edit.log_reach == (pytest.approx(np.abs(values).max()),)
    assert edit.log_reach[0] < 5 < np.abs(PRICES - PRICES.mean()).max() / PRICES.std()


def test_columns_are_looked_at_one_by_one_and_of_both_signs() -> None:
    edit = fit(np.stack([PRICES, INPUTS[:, 1], np.sinh(3 * INPUTS[:, 2])], axis=1), None)
    assert tuple(scale > 0 for scale in edit.log_scale) == (True, False, True)
    assert (edit.mean[1], edit.std[1]) == (pytest.approx(INPUTS[:, 1].mean()), pytest.approx(INPUTS[:, 1].std()))


def test_other_targets_and_linear_relations_stay_as_they_are() -> None:
    for targets, inputs in (
        (RNG.normal(1000, 300, ROWS), INPUTS),
        (RNG.uniform(0, 1e6, ROWS), None),
        (10.0 ** RNG.integers(0, 6, ROWS), None),  # six values are classes
        (PRICES, np.stack([PRICES / 3, INPUTS[:, 1]], axis=1)),
    ):
        with pytest.raises(ConfigError, match="orders of magnitude"):
            fit(targets, inputs)
    plain = fit(PRICES, edit=ScaleTargets())
    assert (plain.mean, plain.std) == ((pytest.approx(PRICES.mean()),), (pytest.approx(PRICES.std()),))
    assert not plain.logarithm


def test_many_rows_are_thinned_evenly() -> None:
    many = np.tile(PRICES, 40) * np.linspace(1, 1.01, 40 * ROWS)
    edit = fit(many, None)
    assert edit.mean[0] == pytest.approx(fit(PRICES, None).mean[0], rel=0.05)
