"""Case files, data and scores."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrainer.errors import ConfigError, DataError
from benchmarks.cases.case import FAULT_PROBLEMS, Case, Program, load_cases
from benchmarks.cases.scoring import case_state, fix_state, is_faulty, is_healthy, score
from benchmarks.cases.work import relative_cost, work
from benchmarks.data.datasets import load, split
from benchmarks.generator.faults_families import FAMILY_FAULTS
from benchmarks.generator.generate import generate
from benchmarks.generator.transformers.faults import FAULTS as TRANSFORMER_FAULTS

CASES = load_cases(["real", "real2", "world", "world_hidden", "zoo"])


def program(**changes: object) -> Program:
    layers = ({"type": "dense", "units": 1, "activation": "sigmoid"},)
    base = Program(
        layers, "bce", {"name": "adam", "lr": 0.1}, 8, 2, {"label_encoding": "binary"}, "framework", "accuracy"
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_ids_are_unique_and_every_fault_has_problem_names() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 40
    faults = {fault for case in CASES for fault in case.faults} | {
        fault.description for fault in (*FAMILY_FAULTS.values(), *TRANSFORMER_FAULTS.values())
    }
    assert faults == set(FAULT_PROBLEMS)


@pytest.mark.parametrize("case", [c for c in CASES if c.source == "real"], ids=lambda c: c.id)
def test_real_cases_have_a_cause_and_a_fix(case: Case) -> None:
    assert case.accepted
    assert case.fixed is not None
    assert case.fixed != case.original


@pytest.mark.parametrize(
    ("sources", "names", "message"),
    [
        (["dreams"], [], "real, real2, world, world_hidden, zoo"),
        (["real"], ["x1"], "'x1'"),
        (["generated:x"], [], "not a valid source"),
        (["generated:0"], [], "not a valid source"),
        (["generated:5@dreams"], [], "'dreams'"),
        (["absent.jsonl"], [], "'absent.jsonl'"),
    ],
)
def test_unknown_sources_and_cases_are_rejected(sources: list[str], names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_cases(sources, names)


def test_cases_of_several_sources_are_selected_by_name() -> None:
    names = ["so50306988", "moons.mlp.zero_init.0"]
    assert [case.id for case in load_cases(["real", "generated"], names)] == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("loss"), "no 'loss'"),
        (lambda row: row.pop("id"), "no 'id'"),
        (lambda row: row.update(id="moons.mlp.zero_init.0"), "duplicate case 'moons.mlp.zero_init.0'"),
        (lambda row: row.update(optimizer="sgd"), "optimizer is 'sgd': expected an object"),
        (lambda row: row.update(loss="mse2"), "unknown loss 'mse2': choose from bce,"),
        (lambda row: row.update(epochs=0), "epochs is 0"),
        (lambda row: row.update(layers=[]), "no layers"),
        (lambda row: row.update(layers="dense"), "no layers"),
        (lambda row: row.update(layers=["dense"]), "layer 'dense': expected an object"),
        (lambda row: row["layers"][0].update(activation="rely"), "unknown activation of a dense layer 'rely'"),
        (lambda row: row["layers"][0].update(init="xavier"), "unknown init of a dense layer 'xavier'"),
        (lambda row: row["layers"][0].update(units="8"), "units of a dense layer is '8': expected a number"),
        (lambda row: row["optimizer"].update(lr="1e-3"), "lr of the optimizer is '1e-3': expected a number"),
        (lambda row: row["dataset"].update(generator="moon"), "unknown data set 'moon': choose from arm,"),
        (lambda row: row["dataset"].update(scaling="std"), "unknown scaling 'std'"),
        (lambda row: row.update(layers=[{"type": "conv3d"}]), "unknown type of layer 'conv3d'"),
        (
            lambda row: row.update(layers=[{"type": "residual", "layers": [{"type": "dense"}]}]),
            "dense .* without 'units'",
        ),
        (lambda row: row.update(optimizer={"name": "lion", "lr": 1}), "unknown optimizer 'lion'"),
        (lambda row: row.update(optimizer={"name": "sgd"}), "without 'lr'"),
        (lambda row: row.update(dataset={"label_encoding": "binary"}), "dataset without"),
        (lambda row: row.update(faults=["bad luck"]), "unknown fault 'bad luck'"),
        (lambda row: row.update(fix={"loss": "guess"}), "unknown loss 'guess'"),
        (lambda row: row.update(loop={"zero_grad": "never"}), "unknown value of loop option 'zero_grad' 'never'"),
        (lambda row: row.update(loop={"speed": 1}), "unknown loop option 'speed'"),
    ],
)
def test_errors_in_case_files_are_reported_with_the_line(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    good = generate("moons.mlp.zero_init.0")
    broken = {**copy.deepcopy(good), "id": "second"}
    change(broken)
    path = tmp_path / "custom.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert [case.source for case in load_cases([str(path)])] == [str(path)]
    path.write_text(f"{json.dumps(good)}\n{json.dumps(broken)}\n")
    with pytest.raises(ConfigError, match=f"custom.jsonl, line 2: .*{message}"):
        load_cases([str(path)])


def test_recipe_changes_with_the_trainings_only(tmp_path: Path) -> None:
    def recipe(**changes: Any) -> str:
        path = tmp_path / "custom.jsonl"
        path.write_text(json.dumps({**generate("moons.mlp.zero_init.0"), **changes}) + "\n")
        (case,) = load_cases([str(path)])
        return case.recipe

    assert recipe() == recipe(id="another", faults=[])
    fix = generate("moons.mlp.zero_init.0")["fix"]
    assert len({recipe(), recipe(epochs=7), recipe(loop={"shuffle": False}), recipe(fix={**fix, "epochs": 7})}) == 4


def test_invalid_json_lines_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "custom.jsonl"
    for line in ("{'id': 1}", "[1]", ""):
        path.write_text(f"{line}\n")
        with pytest.raises(ConfigError, match="line 1: "):
            load_cases([str(path)])


def test_missing_data_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_DATA", "/nowhere")
    with pytest.raises(DataError, match="AUTOTRAINER_DATA"):
        load(load_cases(["real"])[0].original, 0)


def test_circle_matches_autotrainer() -> None:
    data = load(next(c for c in CASES if c.id == "demo_vanish").original, 0)
    assert data.x_train.shape == (700, 2)
    assert data.x_test.shape == (300, 2)
    assert data.y_train.shape == (700, 1)


def test_split_is_a_seeded_partition() -> None:
    x = np.zeros((50, 3))
    kept, held = split(x, x, 0.2, 3)
    assert len(held) == 10
    assert sorted([*kept, *held]) == list(range(50))
    assert np.array_equal(held, split(x, x, 0.2, 3)[1])


@pytest.mark.parametrize(
    ("changes", "outputs", "targets", "expected"),
    [
        ({}, [[0.6], [0.4], [0.9]], [[1], [1], [1]], 2 / 3),
        ({}, [[np.nan], [0.9]], [[0], [1]], 0.5),
        ({"loss": "bce_logits"}, [[0.1], [-0.1]], [[1], [0]], 1.0),
        ({"dataset": {"label_encoding": "pm1"}}, [[0.9], [0.1]], [[1], [-1]], 1.0),
        ({"dataset": {"label_encoding": "onehot"}}, [[0.9, 0.1], [0.2, 0.8]], [[1, 0], [1, 0]], 0.5),
        ({"dataset": {"label_encoding": "index"}}, [[0.9, 0.1], [0.2, 0.8]], [0, 1], 1.0),
        ({"dataset": {"label_encoding": "tag_index_plus1"}}, [[[0, 1, 0], [0, 0, 1]]], [[1, 1]], 0.5),
        ({"metric": "r2"}, [[1.0], [2.0], [3.0]], [[1], [2], [3]], 1.0),
        ({"metric": "r2"}, [[2.0], [2.0], [2.0]], [1, 2, 3], 0.0),
        ({"metric": "r2"}, [[np.inf], [2.0], [3.0]], [1, 2, 3], -1.0),
        ({"metric": "r2"}, [[1.0, 10.0], [2.0, 20.0]], [[1, 10], [2, 20]], 1.0),
        ({"metric": "r2"}, [[1.5, 10.0], [1.5, 20.0]], [[1, 10], [2, 20]], 1 - 0.5 / 50.5),
        ({"dataset": {"label_encoding": "binary_plus1"}}, [[0.9], [0.1]], [[2], [2]], 0.5),
        ({"metric": "r2"}, [[1e30], [2.0], [3.0]], [1, 2, 3], -1.0),
    ],
)
def test_score(changes: dict[str, object], outputs: list[object], targets: list[object], expected: float) -> None:
    assert score(program(**changes), np.array(outputs, float), np.array(targets)) == pytest.approx(expected)


def test_state_follows_from_scores() -> None:
    one = program()
    case = Case("a", "real", one, one, measured={"torch": {"fixed": [0.9, 0.98, 0.97]}})
    assert is_faulty(case, 0.5, 0.97)
    assert not is_faulty(case, 0.95, 0.97)
    assert is_healthy(case, 0.93, "pytorch")
    assert not is_healthy(case, 0.91, "keras3")
    circle = Case("b", "zoo", replace(one, dataset={"generator": "circle", "label_encoding": "binary"}), None)
    assert is_faulty(circle, 0.7, float("nan"))
    assert is_healthy(circle, 0.84, "pytorch")


ONE = Case("a", "real", program(), program(), ("lr too high",), measured={"torch": {"fixed": [0.97]}})
ZOO = Case("b", "zoo", program(dataset={"generator": "circle", "label_encoding": "binary"}), program())


@pytest.mark.parametrize(
    ("case", "original", "fixed", "expected"),
    [
        (ONE, [0.5, 0.5, 0.97], [0.97, 0.97, 0.97], "faulty"),
        (ONE, [0.5, 0.97, 0.97], [0.97, 0.97, 0.97], "in 1 of 3"),
        (ONE, [0.5, 0.97], [0.97, 0.97], "in 1 of 2"),
        (ONE, [0.97, 0.97, 0.96], [0.97, 0.97, 0.97], "no fault shows"),
        (ONE, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "no fault shows"),
        (ZOO, [0.85, 0.84, 0.5], [], "in 1 of 3"),
        (ZOO, [0.85, 0.84, 0.79], [], "healthy"),
        (ZOO, [0.79, 0.84, 0.79], [], "neither"),
        (ONE, [], [], "no scores"),
    ],
)
def test_state_over_seeds(case: Case, original: list[float], fixed: list[float], expected: str) -> None:
    state = case_state(case, original, fixed, "pytorch")
    assert state == expected if expected in ("faulty", "healthy") else expected in state


def test_state_of_the_fix_over_seeds() -> None:
    assert fix_state(ONE, [0.97, 0.95, 0.6], "pytorch") == "healthy"
    assert fix_state(ONE, [0.97, 0.6, 0.6], "pytorch") == "0.970 0.600 0.600 fixed: below its reference score"


@given(st.sampled_from([ONE, ZOO]), st.floats(0, 1), st.floats(0, 1))
def test_state_with_one_seed_follows_from_its_scores(case: Case, original_score: float, fixed_score: float) -> None:
    state = case_state(case, [original_score], [fixed_score], "pytorch")
    assert (state == "faulty") == is_faulty(case, original_score, fixed_score)
    assert (state == "healthy") == (case is ZOO and is_healthy(case, original_score, "pytorch"))
    assert (fix_state(case, [fixed_score], "pytorch") == "healthy") == is_healthy(case, fixed_score, "pytorch")


def test_work_of_each_kind_of_layer() -> None:
    layers = (
        {"type": "conv2d", "filters": 4, "kernel": 3, "padding": "same"},
        {"type": "maxpool2d", "size": 2},
        {"type": "flatten"},
        {"type": "dense", "units": 10},
    )
    expected = 64 * 9 * 2 * 4 + 64 * 4 + 64 * 10
    assert work(program(layers=layers), (8, 8, 2)) == 2 * expected
    lstm = ({"type": "lstm", "units": 3, "bidirectional": True}, {"type": "dense", "units": 1})
    assert work(program(layers=lstm), (5, 2)) == 2 * (4 * 2 * 5 * 3 * (2 + 3) + 6)
    gru = (
        {"type": "embedding", "vocabulary": 9, "units": 2},
        {"type": "gru", "units": 3},
        {"type": "dense", "units": 1},
    )
    assert work(program(layers=gru), (5,)) == 2 * (3 * 5 * 3 * (2 + 3) + 3)
    block = ({"type": "residual", "layers": [{"type": "attention", "heads": 2}]}, {"type": "mean"})
    assert work(program(layers=block), (5, 4)) == 2 * (4 * 5 * 16 + 2 * 25 * 4 + 20)
    assert relative_cost(program(epochs=6), program(epochs=2), (4,)) == 3
