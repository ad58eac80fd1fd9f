"""Random search and searches by Optuna: their space and budget, and that the test rows never influence a choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cases.case import Program, load_cases
from benchmarks.repair.alternatives import SAMPLERS, Report, Scores, longer, optuna_search, random_search
from benchmarks.repair.search_space import LOG_UNIFORM, RATES, SPACE, UNIFORM, Space, draw_program

ORIGINAL = {case.id: case.original for case in load_cases(["real", "zoo"])}
PROGRAM = ORIGINAL["so50306988"]


def cost(program: Program) -> float:
    return program.epochs / PROGRAM.epochs


@pytest.mark.parametrize(("space", "middle"), [(UNIFORM, 0.05), (LOG_UNIFORM, 0.00316)])
def test_rates_follow_their_distribution(space: Space, middle: float) -> None:
    draw = np.random.default_rng(0)
    rates = [space.rate(draw) for _ in range(2000)]
    assert RATES[0] <= min(rates) < max(rates) <= RATES[1]
    assert np.median(rates) == pytest.approx(middle, rel=0.1)


@pytest.mark.parametrize("name", sorted(ORIGINAL))
def test_drawn_programs_can_be_built(name: str) -> None:
    from benchmarks.programs.pytorch import build, loss_module, make_optimizer

    original, draw = ORIGINAL[name], np.random.default_rng(1)
    shape = (784,) if original.dataset.get("generator") == "mnist" else (2,)
    for _ in range(3):
        program = draw_program(original, UNIFORM, draw)
        assert (program.dataset, program.metric) == (original.dataset, original.metric)
        assert program.batch_size in SPACE["batch_size"]
        assert [layer.get("units") for layer in program.layers if layer["type"] == "dense"] == [
            layer.get("units") for layer in original.layers if layer["type"] == "dense"
        ]
        if all(layer["type"] in ("dense", "activation", "batchnorm", "dropout") for layer in program.layers):
            make_optimizer(program, build(program, shape).parameters())
        loss_module(program)


def test_activation_after_normalization_is_not_duplicated() -> None:
    layers = ({"type": "dense", "units": 4}, {"type": "batchnorm"}, {"type": "activation", "fn": "relu"})
    program = replace(PROGRAM, layers=(*layers, {"type": "dense", "units": 2}))
    drawn = draw_program(program, UNIFORM, np.random.default_rng(0)).layers
    assert "activation" not in drawn[0]
    assert drawn[2]["fn"] in SPACE["activation"]
    assert drawn[3]["activation"] in ("softmax", "sigmoid")


def test_budgets_are_kept_and_larger_ones_never_worse() -> None:
    programs: list[Program] = []

    def train(program: Program, report: Report | None) -> Scores:
        programs.append(program)
        if len(programs) % 4 == 0:
            raise RuntimeError("refused")
        good = 1 - abs(np.log10(program.optimizer["lr"]) + 2)
        return Scores(validation=float(good), test=float(good) - 0.1)

    budgets = (1.0, 3.0, 10.0, 20.0)
    entries = random_search("random", PROGRAM, Scores(-2.0, -2.0), LOG_UNIFORM, budgets, train, cost, 0)
    assert [entry["budget"] for entry in entries] == list(budgets)
    assert entries[0]["plan"] is None
    assert (entries[0]["cost"], entries[0]["cost_to_win"], entries[0]["attempts"]) == (1.0, None, [])
    for entry in entries:
        assert entry["cost"] <= entry["budget"]
        assert entry["cost"] == pytest.approx(1 + sum(a[3] for a in entry["attempts"]))
    scores = [entry["repaired"] for entry in entries]
    assert scores == sorted(scores)
    assert any("refused" in str(a[2]) for a in entries[-1]["attempts"])
    alone = random_search("random", PROGRAM, Scores(-2.0, -2.0), LOG_UNIFORM, (3.0,), train, cost, 0)
    assert [a[0] for a in alone[0]["attempts"]] == [a[0] for a in entries[1]["attempts"]]


def test_attempts_are_chosen_by_validation_score() -> None:
    def train(program: Program, report: Report | None) -> Scores:
        return Scores(validation=0.4, test=0.99)

    (entry,) = random_search("random", PROGRAM, Scores(0.5, 0.5), UNIFORM, (4.0,), train, cost, 0)
    assert (entry["repaired"], entry["plan"]) == (0.5, None)


def test_twice_as_long_costs_two_trainings() -> None:
    def train(program: Program, report: Report | None) -> Scores:
        assert program.epochs == 2 * PROGRAM.epochs
        return Scores(0.9, 0.8)

    poor, rich = longer("longer", PROGRAM, Scores(0.5, 0.5), (2.5, 3.0), train, cost)
    assert (poor["repaired"], poor["plan"]) == (0.5, None)
    assert (rich["repaired"], rich["cost"], rich["cost_to_win"]) == (0.8, 3.0, 3.0)


@pytest.mark.parametrize("method", SAMPLERS)
def test_optuna_learns_and_prunes_within_the_budgets(method: str) -> None:
    full = 0

    def train(program: Program, report: Report | None) -> Scores:
        nonlocal full
        assert report is not None
        good = 1 - abs(np.log10(program.optimizer["lr"]) + 2)
        for epoch in range(program.epochs):
            report(epoch, float(good) * (epoch + 1) / program.epochs)
        full += 1
        return Scores(validation=float(good), test=float(good) - 0.1)

    program = replace(PROGRAM, epochs=30)
    arguments = program, Scores(-2.0, -2.0), (3.0, 10.0, 20.0), train, lambda p: p.epochs / 30, 0
    entries = optuna_search(method, *arguments)
    for entry in entries:
        assert entry["cost"] <= entry["budget"] + 1e-9
        assert entry["cost"] == pytest.approx(1 + sum(a[3] for a in entry["attempts"]), abs=0.01)
    assert all(entry["repaired"] > 0 for entry in entries)
    pruned = [a for a in entries[-1]["attempts"] if a[2] == "pruned"]
    assert pruned
    assert full == len(entries[-1]["attempts"]) - len(pruned)
    assert all(a[1] is None and a[3] < 2 for a in pruned)
    assert optuna_search(method, *arguments) == entries


@pytest.mark.parametrize("method", SAMPLERS)
def test_a_search_of_failures_ends(method: str) -> None:
    def train(program: Program, report: Report | None) -> Scores:
        raise RuntimeError("refused")

    (entry,) = optuna_search(method, PROGRAM, Scores(0.5, 0.5), (4.0,), train, cost, 0)
    assert (entry["repaired"], entry["plan"]) == (0.5, None)
    assert entry["cost"] <= 4.0
