"""Case files, data and scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autotrainer.errors import ConfigError, DataError
from benchmarks.cases import FAULT_PROBLEMS, Case, Program, load_cases
from benchmarks.datasets import load, split
from benchmarks.scoring import is_faulty, is_healthy, score
from benchmarks.work import relative_cost, work

CASES = load_cases()


def program(**changes: object) -> Program:
    layers = ({"type": "dense", "units": 1, "activation": "sigmoid"},)
    base = Program(
        layers, "bce", {"name": "adam", "lr": 0.1}, 8, 2, {"label_encoding": "binary"}, "framework", "accuracy"
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_ids_are_unique_and_every_fault_is_in_the_table() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 40
    assert {fault for case in CASES for fault in case.faults} == set(FAULT_PROBLEMS)


@pytest.mark.parametrize("case", [c for c in CASES if c.source == "real"], ids=lambda c: c.id)
def test_every_real_case_names_its_cause_and_changes_something(case: Case) -> None:
    assert case.accepted
    assert case.fixed is not None
    assert case.fixed != case.given


@pytest.mark.parametrize(("sources", "names", "said"), [(["dreams"], [], "real, zoo"), (["real"], ["x1"], "'x1'")])
def test_unknown_names_are_told(sources: list[str], names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_cases(sources, names)


def test_absent_data_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_DATA", "/nowhere")
    with pytest.raises(DataError, match="AUTOTRAINER_DATA"):
        load(load_cases(["real"])[0].given, 0)


def test_circle_is_that_of_autotrainer() -> None:
    data = load(next(c for c in CASES if c.id == "demo_vanish").given, 0)
    assert data.x_train.shape == (700, 2)
    assert data.x_test.shape == (300, 2)
    assert data.y_train.shape == (700, 1)


def test_split_is_a_partition_and_seeded() -> None:
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
        ({"metric": "r2"}, [[1e30], [2.0], [3.0]], [1, 2, 3], -1.0),
    ],
)
def test_score(changes: dict[str, object], outputs: list[object], targets: list[object], expected: float) -> None:
    assert score(program(**changes), np.array(outputs, float), np.array(targets)) == pytest.approx(expected)


def test_state_is_judged_by_score() -> None:
    given = program()
    case = Case("a", "real", given, given, measured={"torch": {"fixed": [0.9, 0.98, 0.97]}})
    assert is_faulty(case, 0.5, 0.97)
    assert not is_faulty(case, 0.95, 0.97)
    assert is_healthy(case, 0.93, "pytorch")
    assert not is_healthy(case, 0.91, "keras3")
    circle = Case("b", "zoo", replace(given, dataset={"generator": "circle", "label_encoding": "binary"}), None)
    assert is_faulty(circle, 0.7, float("nan"))
    assert is_healthy(circle, 0.84, "pytorch")


def test_work_counts_each_kind_of_layer() -> None:
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
    assert relative_cost(program(epochs=6), program(epochs=2), (4,)) == 3
