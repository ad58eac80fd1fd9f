"""Generated cases."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from autotrainer.errors import ConfigError
from benchmarks.cases.case import FAULT_PROBLEMS, Case, load_cases
from benchmarks.data.datasets import Arrays, load
from benchmarks.generator.generate import DATA, FAULTS, QUIET, SEVERAL, generate, names
from benchmarks.programs.pytorch import build, loss_module, make_optimizer, to_inputs, to_targets

EMBEDDED = [data for data, spec in DATA.items() if "rows" not in spec]


def case_of(name: str) -> Case:
    (case,) = load_cases(["generated"], [name])
    return case


def test_as_many_as_in_both_evaluations_of_autotrainer() -> None:
    made = names(701)
    assert len(set(made)) == 701
    assert made[:495] == names(495)
    assert {name.split(".")[0] for name in made} == set(EMBEDDED)
    counts = Counter(fault for name in made for fault in name.split(".")[2].split("+"))
    assert set(counts) == set(FAULTS) - set(QUIET)
    assert max(counts.values()) <= 701 * 0.08
    assert sum("+" in name for name in made) == 701 // SEVERAL


def test_no_training_is_there_twice() -> None:
    programs = [(case.given, case.fixed) for case in load_cases(["generated:701"])]
    assert all(programs.count(pair) == 1 for pair in programs)
    with pytest.raises(ConfigError, match="no 5000 different cases on iris"):
        names(5000, data=["iris"])


@pytest.mark.parametrize("source", ["generated:60:7", "generated:60:7@moons", "generated:3:1@moons+iris"])
def test_another_seed_has_other_cases(source: str) -> None:
    others = {case.id for case in load_cases([source])}
    assert len(others) == int(source.split(":")[1])
    assert not others & set(names(701))
    data = source.partition("@")[2]
    assert not data or {name.split(".")[0] for name in others} == set(data.split("+"))
    (first, *_) = load_cases([source])
    assert load_cases(["generated"], [first.id]) == [first]  # it follows from its name, whatever the seed


@pytest.mark.parametrize(
    "source", ["generated:", "generated:0", "generated:x", "generated::7", "generated:60:", "generated:60:7@"]
)
def test_an_unreadable_number_of_cases_is_an_error(source: str) -> None:
    with pytest.raises(ConfigError, match="generated:60:7@moons"):
        load_cases([source])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # one of the faults
def test_every_case_can_be_built() -> None:
    cases = load_cases(["generated:701"])
    arrays: dict[str, Arrays] = {}
    for program in (program for case in cases for program in (case.given, case.fixed)):
        assert program is not None
        which = json.dumps([program.dataset, program.layers[-1]["units"]])
        if which not in arrays:
            arrays[which] = load(program, 0)
        data = arrays[which]
        model = build(program, data.x_train.shape[1:]).eval()
        make_optimizer(program, model.parameters())
        outputs = model(to_inputs(program, data.x_train[:4]))
        assert loss_module(program)(outputs, to_targets(data.y_train[:4])).ndim == 0


def test_few_names_have_every_fault() -> None:
    made = names(len(FAULTS))
    assert {fault for name in made for fault in name.split(".")[2].split("+")} == set(FAULTS) - set(QUIET)


def test_a_case_follows_from_its_name() -> None:
    for name in names(200):
        row = generate(name)
        assert row == generate(name)
        assert row["id"] == name


def test_a_known_case_stays_what_it_is() -> None:
    row = generate("digits.mlp.rate_too_high.0")
    assert row["optimizer"] == {"name": "rmsprop", "lr": 0.6}
    assert row["fix"] == {"optimizer": {"name": "rmsprop", "lr": 0.002}}
    assert row["batch_size"] == 32


def test_the_fix_is_the_same_training_without_the_fault() -> None:
    for case in load_cases(["generated:300"]):
        assert case.fixed is not None
        assert case.fixed != case.given
        assert set(case.faults) <= set(FAULT_PROBLEMS)
        assert case.accepted
        assert case.fixed.metric == case.given.metric
        assert case.fixed.loop == {}
        assert not any(case.fixed.dataset.get(damage) for damage in ("missing", "rare", "order"))


def test_two_faults_are_both_there() -> None:
    case = case_of("cancer.norm.rate_too_low+missing_values.3")
    assert case.faults == ("lr too low", "NaN in the data")
    assert case.fixed is not None
    assert case.given.optimizer["lr"] < 0.1 * case.fixed.optimizer["lr"]
    data = load(case.given, 0)
    assert np.isnan(data.x_train).any()
    assert not np.isnan(load(case.fixed, 0).x_train).any()
    assert not np.isnan(data.x_test).any()


def test_seeds_draw_other_trainings() -> None:
    rates = {generate(f"digits.mlp.rate_too_high.{seed}")["optimizer"]["lr"] for seed in range(8)}
    assert len(rates) > 2


def test_faults_of_a_loop_are_pytorch_alone() -> None:
    case = case_of("moons.mlp.no_zero_grad.0")
    assert case.frameworks == ("pytorch",)
    assert not case.given.managed("pytorch")
    assert case_of("moons.mlp.zero_init.0").given.managed("pytorch")
    clipped = case_of("moons.mlp.clipped_away.0").given
    assert clipped.managed("keras3")
    assert not clipped.managed("pytorch")


@pytest.mark.parametrize("data", EMBEDDED)
def test_data_is_there_for_every_case(data: str) -> None:
    arrays = load(case_of(next(name for name in names(300) if name.startswith(f"{data}."))).given, 0)
    fixed = load(case_of(f"{data}.{DATA[data]['kinds'][0]}.rate_too_low.0").given, 0)
    assert len(fixed.x_train) > 2 * len(fixed.x_test)
    assert len(arrays.x_train) == len(arrays.y_train)


def test_damaged_rows_are_those_of_training_alone() -> None:
    healthy = load(case_of("shapes.cnn.rate_too_low.0").given, 0)
    rare = load(case_of("shapes.cnn.rare_class.0").given, 0)
    assert np.mean(rare.y_train == 0) > 0.8
    assert np.array_equal(rare.y_test, healthy.y_test)
    rows = load(case_of("shapes.cnn.sorted_rows.0").given, 0)
    assert np.all(np.diff(rows.y_train) >= 0)
    assert np.array_equal(np.sort(rows.x_train, axis=None), np.sort(healthy.x_train, axis=None))


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "digits.mlp.nothing.0",
        "digits.mlp.relu_output.x",
        "digits.cnn.relu_output.0",
        "no.mlp.relu_output.0",
        "digits.mlp.relu_output+.0",
        "digits.mlp.rate_too_high+rate_too_low.0",
        "digits.mlp.zero_init+zero_init.0",
        "digits.mlp.raw_targets.0",
    ],
)
def test_an_unknown_case_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"DATA\.NETWORK|can't be put"):
        generate(name)


@pytest.mark.parametrize("fault", [name for name, fault in FAULTS.items() if fault.optimizer])
def test_a_fault_that_wants_an_optimizer_changes_nothing_else_of_it(fault: str) -> None:
    case = case_of(f"digits.mlp.{fault}.0")
    assert case.fixed is not None
    given, fixed = case.given.optimizer, case.fixed.optimizer
    changed = {key for key in {*given, *fixed} if given.get(key) != fixed.get(key)}
    assert changed <= {"momentum", "clip_norm", "weight_decay"}
    assert len(changed) <= 1
