"""Generated cases."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from autotrainer.errors import ConfigError
from benchmarks.cases.case import FAULT_PROBLEMS, Case, load_cases
from benchmarks.data.datasets import Arrays, load
from benchmarks.generator.generate import BY_NAME_ONLY, DATA, FAULTS, TWO_FAULT_INTERVAL, generate, names
from benchmarks.programs.pytorch import build, loss_module, make_optimizer, to_inputs, to_targets

EMBEDDED = [data for data, spec in DATA.items() if "rows" not in spec]


def case_of(name: str) -> Case:
    (case,) = load_cases(["generated"], [name])
    return case


def test_names_are_distinct_and_cover_all_faults() -> None:
    ids = names(701)
    assert len(set(ids)) == 701
    assert ids[:495] == names(495)
    assert {name.split(".")[0] for name in ids} == set(EMBEDDED)
    counts = Counter(fault for name in ids for fault in name.split(".")[2].split("+"))
    assert set(counts) == set(FAULTS) - set(BY_NAME_ONLY)
    assert max(counts.values()) <= 701 * 0.08
    assert sum("+" in name for name in ids) == 701 // TWO_FAULT_INTERVAL


def test_trainings_are_distinct() -> None:
    programs = [(case.original, case.fixed) for case in load_cases(["generated:701"])]
    assert all(programs.count(pair) == 1 for pair in programs)
    with pytest.raises(ConfigError, match="no 5000 different cases on iris"):
        names(5000, data=["iris"])


@pytest.mark.parametrize("source", ["generated:60:7", "generated:60:7@moons", "generated:3:1@moons+iris"])
def test_seeds_have_distinct_cases(source: str) -> None:
    others = {case.id for case in load_cases([source])}
    assert len(others) == int(source.split(":")[1])
    assert not others & set(names(701))
    data = source.partition("@")[2]
    assert not data or {name.split(".")[0] for name in others} == set(data.split("+"))
    (first, *_) = load_cases([source])
    assert load_cases(["generated"], [first.id]) == [first]  # the name determines it, whatever the seed


@pytest.mark.parametrize(
    "source", ["generated:", "generated:0", "generated:x", "generated::7", "generated:60:", "generated:60:7@"]
)
def test_invalid_sources_are_rejected(source: str) -> None:
    with pytest.raises(ConfigError, match="generated:60:7@moons"):
        load_cases([source])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # one of the faults
def test_all_cases_can_be_built() -> None:
    cases = load_cases(["generated:701"])
    arrays: dict[str, Arrays] = {}
    for program in (program for case in cases for program in (case.original, case.fixed)):
        assert program is not None
        key = json.dumps([program.dataset, program.layers[-1]["units"]])
        if key not in arrays:
            arrays[key] = load(program, 0)
        data = arrays[key]
        model = build(program, data.x_train.shape[1:]).eval()
        make_optimizer(program, model.parameters())
        outputs = model(to_inputs(program, data.x_train[:4]))
        assert loss_module(program)(outputs, to_targets(data.y_train[:4])).ndim == 0


def test_first_names_cover_all_faults() -> None:
    ids = names(len(FAULTS))
    assert {fault for name in ids for fault in name.split(".")[2].split("+")} == set(FAULTS) - set(BY_NAME_ONLY)


def test_case_is_determined_by_its_name() -> None:
    for name in names(200):
        row = generate(name)
        assert row == generate(name)
        assert row["id"] == name


def test_generated_case_is_stable() -> None:
    row = generate("digits.mlp.rate_too_high.0")
    assert row["optimizer"] == {"name": "rmsprop", "lr": 0.6}
    assert row["fix"] == {"optimizer": {"name": "rmsprop", "lr": 0.002}}
    assert row["batch_size"] == 32


def test_fix_is_the_training_without_the_fault() -> None:
    for case in load_cases(["generated:300"]):
        assert case.fixed is not None
        assert case.fixed != case.original
        assert set(case.faults) <= set(FAULT_PROBLEMS)
        assert case.accepted
        assert case.fixed.metric == case.original.metric
        assert case.fixed.loop == {}
        assert not any(case.fixed.dataset.get(damage) for damage in ("missing", "rare", "order"))


def test_two_faults_are_both_injected() -> None:
    case = case_of("cancer.norm.rate_too_low+missing_values.3")
    assert case.faults == ("lr too low", "NaN in the data")
    assert case.fixed is not None
    assert case.original.optimizer["lr"] < 0.1 * case.fixed.optimizer["lr"]
    data = load(case.original, 0)
    assert np.isnan(data.x_train).any()
    assert not np.isnan(load(case.fixed, 0).x_train).any()
    assert not np.isnan(data.x_test).any()


def test_seeds_draw_different_strengths() -> None:
    rates = {generate(f"digits.mlp.rate_too_high.{seed}")["optimizer"]["lr"] for seed in range(8)}
    assert len(rates) > 2


def test_loop_faults_exist_only_in_pytorch() -> None:
    case = case_of("moons.mlp.no_zero_grad.0")
    assert case.frameworks == ("pytorch",)
    assert not case.original.managed("pytorch")
    assert case_of("moons.mlp.zero_init.0").original.managed("pytorch")
    clipped = case_of("moons.mlp.clipped_away.0").original
    assert clipped.managed("keras3")
    assert not clipped.managed("pytorch")


@pytest.mark.parametrize("data", EMBEDDED)
def test_data_of_each_data_set_can_be_loaded(data: str) -> None:
    arrays = load(case_of(next(name for name in names(300) if name.startswith(f"{data}."))).original, 0)
    fixed = load(case_of(f"{data}.{DATA[data]['kinds'][0]}.rate_too_low.0").original, 0)
    assert len(fixed.x_train) > 2 * len(fixed.x_test)
    assert len(arrays.x_train) == len(arrays.y_train)


def test_data_faults_affect_only_training_rows() -> None:
    healthy = load(case_of("shapes.cnn.rate_too_low.0").original, 0)
    rare = load(case_of("shapes.cnn.rare_class.0").original, 0)
    assert np.mean(rare.y_train == 0) > 0.8
    assert np.array_equal(rare.y_test, healthy.y_test)
    rows = load(case_of("shapes.cnn.sorted_rows.0").original, 0)
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
def test_invalid_names_are_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=r"DATA\.NETWORK|can't be injected"):
        generate(name)


@pytest.mark.parametrize("fault", [name for name, fault in FAULTS.items() if fault.optimizer])
def test_optimizer_faults_change_one_setting(fault: str) -> None:
    case = case_of(f"digits.mlp.{fault}.0")
    assert case.fixed is not None
    original, fixed = case.original.optimizer, case.fixed.optimizer
    changed = {key for key in {*original, *fixed} if original.get(key) != fixed.get(key)}
    assert changed <= {"momentum", "clip_norm", "weight_decay"}
    assert len(changed) <= 1
