"""Generated cases."""

from __future__ import annotations

import pytest

from autotrainer.errors import ConfigError
from benchmarks.cases import FAULT_PROBLEMS, load_cases
from benchmarks.datasets import load
from benchmarks.generator import DATA, FAULTS, generate, names


def test_names_are_different_and_go_through_everything() -> None:
    made = names(300)
    assert len(set(made)) == 300
    assert {name.split(".")[0] for name in made} == set(DATA)
    assert {name.split(".")[2] for name in made} == set(FAULTS)


def test_a_case_follows_from_its_name() -> None:
    for name in names(30):
        assert generate(name) == generate(name)


def test_the_fix_is_the_same_training_without_the_fault() -> None:
    for case in load_cases(["generated:130"]):
        assert case.fixed is not None
        assert case.fixed != case.given
        assert case.faults[0] in FAULT_PROBLEMS
        assert case.fixed.metric == case.given.metric


def test_seeds_draw_other_trainings() -> None:
    rates = {generate(f"digits.mlp.rate_too_high.{seed}")["optimizer"]["lr"] for seed in range(8)}
    assert len(rates) > 2


@pytest.mark.parametrize("data", DATA)
def test_data_is_there_for_every_case(data: str) -> None:
    name = next(name for name in names(200) if name.startswith(f"{data}."))
    (case,) = load_cases(["generated"], [name])
    arrays = load(case.given, 0)
    assert len(arrays.x_train) > 2 * len(arrays.x_test)
    assert len(arrays.x_train) == len(arrays.y_train)


@pytest.mark.parametrize(
    "name",
    ["digits", "digits.mlp.nothing.0", "digits.mlp.relu_output.x", "digits.cnn.relu_output.0", "no.mlp.relu_output.0"],
)
def test_an_unknown_case_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"DATA\.NETWORK|can't be put"):
        generate(name)
