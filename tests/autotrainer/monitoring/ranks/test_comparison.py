"""What ranks tell each other about sampled steps, and what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.monitoring.ranks.comparison import RANK_COLUMNS, RankComparison, spread
from autotrainer.records.facts import FACTS
from autotrainer.records.signals import Floats


def table(step: int, ranks: int, **columns: Any) -> Floats:
    """Return what healthy ranks tell, with some columns replaced."""
    generator = np.random.default_rng(step)
    values: dict[str, Any] = {
        "present": 1.0,
        "position": float(step),
        "loss": generator.normal(1.0, 0.05, ranks),
        "grad_norm": 2.0,
        "weight_norm": 3.0,
        "nonfinite_loss": 0.0,
        "nonfinite_inputs": 0.0,
        "nonfinite_outputs": 0.0,
        "input_scale": generator.normal(1.0, 0.05, ranks),
        "batch": generator.integers(2**32, size=ranks).astype(float),
    } | columns
    return np.stack([np.broadcast_to(np.asarray(values[name], float), (ranks,)) for name in RANK_COLUMNS], axis=1)


def compared(
    steps: int = 12, ranks: int = 4, gaps: Any = 0.0, *, replicas: bool = True, **columns: Any
) -> dict[str, float]:
    comparison = RankComparison(tuple(range(10, 10 + ranks)), replicas=replicas, parallel_data=True)
    facts: dict[str, float] = {}
    for step in range(steps):
        changed = {name: value(step) if callable(value) else value for name, value in columns.items()}
        facts |= comparison.add(
            table(step, ranks, **changed), np.broadcast_to(gaps, (2,)) if replicas else None, np.array([True, True])
        )
    assert facts.keys() <= set(FACTS)
    return facts


ODD = [1.0, 1.0, 1.0, 1.5]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, {"replicas": 4, "replica_steps": 12, "replica_gap": 0, "replica_twins": 0}),
        ({"gaps": [0.0, 0.1], "weight_norm": ODD}, {"replica_rank": 13, "replica_worst_gap": 0.1, "replica_layer": 1}),
        ({"grad_norm": [2.0, 4.0, 2.0, 2.0]}, {"replica_gradient_rank": 11, "replica_gradient_ratio": 2}),
        ({"input_scale": [1.0, 1.0, 30.0, 1.1]}, {"odd_input_scale_rank": 12}),
        ({"ranks": 3, "input_scale": [1.0, 1.0, 20.0]}, {"odd_input_scale_rank": 12, "odd_input_scale_ratio": 20}),
        ({"loss": [0.1, 1.0, 1.1, 1.2]}, {"odd_loss_rank": 10}),
        ({"batch": lambda step: [step, -step - 1, step, -step - 2]}, {"twin_pairs": 1, "twin_rank": 10, "twin_of": 12}),
        ({"nonfinite_loss": lambda step: [0, 0, 6 * (step > 4), 0]}, {"nonfinite_rank": 12, "nonfinite_ranks": 1}),
        ({"nonfinite_loss": [7.0, 7.0, 6.0, 7.0]}, {"nonfinite_rank": 12}),
        ({"nonfinite_inputs": [0.0, 1.0, 0.0, 0.0]}, {"nonfinite_rank": 11, "nonfinite_rank_inputs": 1}),
    ],
    ids=[
        "healthy",
        "weights",
        "gradients",
        "scale",
        "scale of three",
        "loss",
        "twins",
        "nan later",
        "nan first",
        "nan inputs",
    ],
)
def test_the_rank_that_differs_is_named(columns: dict[str, Any], expected: dict[str, float]) -> None:
    facts = compared(**columns)
    assert {name: facts.get(name) for name in expected} == expected
    odd = {name for name in facts if name.endswith("_rank")} - expected.keys()
    assert not odd


def test_one_rank_of_two_is_not_named() -> None:
    facts = compared(ranks=2, gaps=[0.1, 0.1], weight_norm=[1.0, 1.1])
    assert facts["replica_gap"] == 0.1
    assert "replica_rank" not in facts


def test_ranks_that_all_lose_at_once_are_not_named() -> None:
    assert "nonfinite_rank" not in compared(nonfinite_loss=6.0)


def test_a_scale_that_differs_now_and_then_is_no_other_data() -> None:
    facts = compared(40, input_scale=lambda step: [1.0, 1.0, 5.0 if step % 8 else 1.0, 1.0])
    assert "odd_input_scale_rank" not in facts


def test_shards_and_stages_are_not_compared_as_replicas() -> None:
    assert "replica_gap" not in compared(replicas=False, weight_norm=ODD)
    assert "replica_gap" not in compared(loss=[np.nan, np.nan, np.nan, 1.0], gaps=0.5, weight_norm=ODD)


def test_a_step_that_a_rank_has_missed_is_not_compared() -> None:
    assert "replica_steps" not in compared(present=[1.0, 1.0, 0.0, 1.0])


def test_steps_of_one_number_at_other_points_of_the_training_are_not_compared() -> None:
    facts = compared(position=lambda step: [step, step, step, step - 5], gaps=0.5, weight_norm=ODD)
    assert "replica_gap" not in facts
    assert compared(position=np.nan, gaps=0.5, weight_norm=ODD)["replica_rank"] == 13


@pytest.mark.parametrize(
    ("values", "gap"), [([3.0] * 5, 0.0), ([3.0, 3.0, 3.3, 3.0], 0.08), ([0.0] * 3, 0.0)], ids=["equal", "one", "zero"]
)
def test_spread_of_values_from_their_sums(values: list[float], gap: float) -> None:
    array = np.array([values]).T
    found = spread(array.sum(0), np.square(array).sum(0), len(values))
    assert found[0] == pytest.approx(gap, rel=0.1, abs=0)
    assert found[0] <= (array.max() - array.min()) / max(array.max(), 1e-9) + 1e-9
