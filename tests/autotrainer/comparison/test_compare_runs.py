"""Comparing recorded runs: noise of seeds, deviations, outcomes, findings, layers, and runs that end early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from autotrainer.comparison.compare import compare_runs
from autotrainer.comparison.compared_run import ComparedRun
from autotrainer.comparison.layer_matching import match_layers
from autotrainer.comparison.noise import log_p, simes
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Floats, LayerInfo, StepStats
from autotrainer.records.task import TaskContext

LAYERS = tuple(
    LayerInfo(f"blocks.{block}.{name}", "dense", "linear", 16, 272)
    for block in range(4)
    for name in ("query", "key", "value", "output")
)
KEY = 13  # blocks.3.key

Change = Callable[[int, dict[str, float], Mapping[str, Floats]], None]
"""Changes the scalars and the layer columns of a step."""


def _run(
    seed: int,
    change: Change | None = None,
    *,
    steps: int = 128,
    accuracy: float = 0.9,
    layers: tuple[LayerInfo, ...] = LAYERS,
    context: TaskContext | None = None,
    findings: tuple[Finding, ...] = (),
    finished: bool = True,
    every: int = 1,
) -> ComparedRun:
    """A run whose statistics scatter between seeds as those of real ones."""
    draw = np.random.default_rng(seed)
    history = RunHistory(layers)
    shifts = {name: np.exp(0.1 * draw.standard_normal(len(layers))) for name in LAYER_COLUMNS}
    shifts["weight_norm"] = np.exp(0.01 * draw.standard_normal(len(layers)))
    for step in range(0, steps, every):
        table = {name: np.full(len(layers), np.nan) for name in LAYER_COLUMNS}
        for name in ("grad_norm", "weight_norm", "update_ratio", "activation_std", "activation_max_abs"):
            table[name] = shifts[name] * np.exp(0.05 * draw.standard_normal(len(layers)) * (name != "weight_norm"))
        scalars = {"loss": math.exp(-step / 64 + 0.1 * draw.standard_normal()), "grad_norm": 1.0, "learning_rate": 0.1}
        if change is not None:
            change(step, scalars, table)
        row = np.array([scalars.get(name, np.nan) for name in STEP_COLUMNS])
        history.add_step(StepStats(step, 0, row, np.stack([table[name] for name in LAYER_COLUMNS], axis=1)))
    history.step = steps - 1
    for epoch in range(steps // 16):
        value = accuracy - 0.3 * math.exp(-epoch) + 0.005 * draw.standard_normal()
        history.add_epoch(epoch, 16 * epoch + 15, {"val_accuracy": value})
    history.finished = finished
    return ComparedRun(f"run {seed}", history, context or TaskContext("pytorch", "pytorch", layers=layers), findings)


def _small_key(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
    for name in ("weight_norm", "activation_std", "activation_max_abs"):
        table[name][KEY] *= 1e-3


BASELINE = [_run(seed) for seed in range(5)]


def _finding(severity: Severity = Severity.ERROR, problem: str = "dying_relu") -> Finding:
    return Finding(problem, "AT103", severity, 0.9, "Units are dead.")


@pytest.mark.parametrize("amount", [1, 3, 5])
def test_other_seeds_do_not_differ(amount: int) -> None:
    comparisons = [compare_runs(BASELINE[:amount], [_run(seed)]) for seed in range(10, 16)]
    assert not any(c.differs or c.worse or c.deviations for c in comparisons)
    assert not any(c.same_start or c.identical for c in comparisons)


@pytest.mark.parametrize("amount", [1, 3, 5])
def test_one_small_layer_is_named(amount: int) -> None:
    comparison = compare_runs(BASELINE[:amount], [_run(10, _small_key)])
    assert comparison.differs
    assert not comparison.worse, "the outcome is the same"
    assert comparison.parted is not None
    assert (comparison.parted.layer, comparison.parted.statistic) == ("blocks.3.key", "weight_norm")
    assert comparison.parted.step == 0
    assert comparison.parted.lasting
    assert comparison.parted.value / comparison.parted.baseline == pytest.approx(1e-3, rel=0.1)
    assert {d.layer for d in comparison.deviations} == {"blocks.3.key"}
    assert "weight norm of layer blocks.3.key: ×0.00" in comparison.text.replace("\n    ", " ")


def test_scores_of_the_baseline_show_what_is_usual() -> None:
    comparison = compare_runs(BASELINE, [_run(10, _small_key)])
    assert len(comparison.baseline_scores) == 5
    assert max(comparison.baseline_scores) < 2 < comparison.score
    assert compare_runs(BASELINE[:2], [_run(10)]).baseline_scores == ()


def test_first_step_of_a_late_change_is_named() -> None:
    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        if step >= 40:
            table["grad_norm"][:] *= 100

    comparison = compare_runs(BASELINE, [_run(10, change)])
    assert comparison.parted is not None
    assert (comparison.parted.step, comparison.parted.statistic) == (40, "grad_norm")


def test_passing_change_is_told_as_such() -> None:
    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        if step < 8:
            table["grad_norm"][:] *= 100

    comparison = compare_runs(BASELINE, [_run(10, change)])
    assert comparison.parted is not None
    assert not comparison.parted.lasting
    assert "later as in the baseline" in comparison.text.replace("\n    ", " ")


def test_equal_runs_are_identical() -> None:
    comparison = compare_runs([BASELINE[0]], [_run(0)])
    assert comparison.identical
    assert comparison.same_start
    assert (comparison.score, comparison.parted, comparison.differs, comparison.worse) == (0.0, None, False, False)
    assert "no difference" in comparison.text


def test_other_metric_is_not_identical() -> None:
    comparison = compare_runs([BASELINE[0]], [_run(0, accuracy=0.5)])
    assert comparison.worse
    assert comparison.same_start
    assert not comparison.identical
    assert comparison.parted is not None
    assert (comparison.parted.statistic, comparison.parted.step) == ("val_accuracy", 15)


def test_other_loss_between_samples_is_not_identical() -> None:
    sides = [_run(0, every=2), _run(0, every=2)]
    for run, loss in zip(sides, (0.1, 0.2), strict=True):
        run.history.add_losses([(127, loss)])
    comparison = compare_runs(sides[:1], sides[1:])
    assert not comparison.identical
    assert comparison.parted is not None
    assert (comparison.parted.statistic, comparison.parted.step) == ("loss", 127)


def test_equal_start_names_the_first_step_that_differs_at_all() -> None:
    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        if step >= 21:
            table["activation_std"][5:] *= 1.01

    comparison = compare_runs(BASELINE, [_run(2, change)])
    assert comparison.same_start
    assert not comparison.identical
    assert not comparison.differs
    assert comparison.parted is not None
    assert (comparison.parted.step, comparison.parted.layer) == (21, LAYERS[5].name)


def test_rounding_is_no_difference() -> None:
    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        table["grad_norm"][:] *= 1 + 1e-5

    assert compare_runs([BASELINE[0]], [_run(0, change)]).identical


@pytest.mark.parametrize(("old", "new"), [(1, 1), (3, 1), (3, 3), (5, 2)])
def test_lower_accuracy_is_worse(old: int, new: int) -> None:
    worse = [_run(seed, accuracy=0.75) for seed in range(10, 10 + new)]
    comparison = compare_runs(BASELINE[:old], worse)
    assert [o.verdict for o in comparison.outcomes] == ["worse"]
    assert comparison.worse
    better = compare_runs(worse, BASELINE[:old])
    assert [o.verdict for o in better.outcomes] == ["better"]
    assert not better.worse


def test_more_seeds_show_smaller_differences() -> None:
    old, new = [[_run(seed, accuracy=a) for seed in seeds] for a, seeds in ((0.9, range(6)), (0.87, range(10, 16)))]
    assert not compare_runs(old[:1], new[:1]).worse
    assert compare_runs(old, new).worse


def test_unfinished_run_is_judged_at_the_same_step() -> None:
    started = _run(10, steps=32, accuracy=0.9, finished=False)
    comparison = compare_runs(BASELINE, [started])
    assert len(comparison.outcomes) == 1
    assert any("first 32 steps" in note for note in comparison.notes)
    assert not comparison.differs


def test_sparse_samples_are_comparable() -> None:
    assert not compare_runs(BASELINE, [_run(10, every=7)]).differs
    assert compare_runs(BASELINE, [_run(10, _small_key, every=7)]).differs


def test_new_error_in_most_runs_is_worse() -> None:
    new, old = _run(10, findings=(_finding(),)), _run(11, findings=(_finding(Severity.WARNING),))
    changes = compare_runs(BASELINE, [new]).findings
    assert [(c.kind, c.runs, c.baseline) for c in changes] == [("new", 1, 0)]
    assert compare_runs(BASELINE, [new]).worse
    assert not compare_runs(BASELINE, [new, _run(12), _run(13)]).worse, "one of three"
    assert [c.kind for c in compare_runs([old], [new]).findings] == ["more severe"]
    assert [c.kind for c in compare_runs([new], [_run(12)]).findings] == ["gone"]
    assert not compare_runs([*BASELINE[:4], new], [new]).worse, "one of the baseline has it, too"


def test_new_warning_is_worse_only_on_demand() -> None:
    warned = _run(10, findings=(_finding(Severity.WARNING),))
    assert not compare_runs(BASELINE, [warned]).worse
    assert compare_runs(BASELINE, [warned], fail_on=Severity.WARNING).worse


def test_what_is_not_finite_differs() -> None:
    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        if step >= 30:
            scalars["loss"] = math.inf
            table["grad_norm"][:] = math.inf

    comparison = compare_runs(BASELINE, [_run(10, change)])
    assert comparison.differs
    assert comparison.parted is not None
    assert comparison.parted.step == 30
    assert comparison.to_json()


def test_missing_signals_are_told_and_do_not_differ() -> None:
    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        table["update_ratio"][:] = np.nan
        del scalars["loss"]

    comparison = compare_runs(BASELINE, [_run(10, change)])
    assert not comparison.differs
    assert any("not measured in the run: loss, update ratio" in note for note in comparison.notes)


def test_run_without_samples_is_compared_by_its_findings() -> None:
    empty = ComparedRun("empty", RunHistory(), TaskContext(), (_finding(),))
    comparison = compare_runs(BASELINE, [empty])
    assert comparison.worse
    assert any("no sampled step" in note for note in comparison.notes)


@pytest.mark.parametrize("baseline_first", [True, False])
def test_run_that_failed_before_its_first_step_hides_no_layer(baseline_first: bool) -> None:
    empty = ComparedRun("empty", RunHistory(), TaskContext())
    old, new = BASELINE[:3], [_run(10, _small_key)]
    comparison = compare_runs([empty, *old], new) if baseline_first else compare_runs(old, [empty, *new])
    assert comparison.parted is not None
    assert comparison.parted.layer == "blocks.3.key"
    assert not any("layer" in line for line in comparison.setup)
    assert not any("first 0 steps" in note for note in comparison.notes)


def test_changed_settings_are_told() -> None:
    context = TaskContext("pytorch", "pytorch", layers=LAYERS)
    changed = replace(context, optimizer=replace(context.optimizer, name="adam", learning_rate=1.0), train_rows=10)
    setup = compare_runs(BASELINE, [_run(10, context=changed)]).setup
    assert "optimizer: unknown → adam" in setup
    assert "training rows: unknown → 10" in setup


def _layers(*shapes: tuple[str, str, int]) -> list[LayerInfo]:
    return [LayerInfo(name, kind, units=units, parameters=units * 3) for name, kind, units in shapes]


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (_layers(("a", "dense", 4)), _layers(("dense_7", "dense", 4)), {0: 0}),
        (  # an index in a sequence shifts where a layer is inserted
            _layers(("0", "dense", 4), ("1", "norm", 4), ("2", "dense", 8), ("3", "dense", 2)),
            _layers(("0", "dense", 4), ("1", "dense", 8), ("2", "dense", 2)),
            {0: 0, 2: 1, 3: 2},
        ),
        (  # a chosen name is the same layer in another place
            _layers(("head", "dense", 4), ("body", "dense", 8), ("tail", "conv", 8)),
            _layers(("body", "dense", 8), ("head", "dense", 4)),
            {0: 1, 1: 0},
        ),
        (_layers(("fc1", "dense", 4)), _layers(("fc1", "dense", 400)), {0: 0}),
        (_layers(("fc1", "dense", 4)), _layers(("fc1", "conv", 4)), {}),
        ([], _layers(("fc1", "conv", 4)), {}),
    ],
)
def test_layers_are_matched(new: list[LayerInfo], old: list[LayerInfo], expected: dict[int, int]) -> None:
    assert match_layers(new, old) == expected


def test_wider_layer_does_not_differ_by_its_size() -> None:
    wide = tuple(replace(layer, units=64, parameters=4 * 272) for layer in LAYERS)

    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        table["weight_norm"][:] *= 2
        table["grad_norm"][:] *= 2

    comparison = compare_runs(BASELINE, [_run(10, change, layers=wide)])
    assert not comparison.differs
    assert any("parameters" in line for line in comparison.setup)


def test_frameworks_are_compared_where_layers_mean_the_same() -> None:
    fused = tuple(replace(layer, name=f"dense_{i}", activation="relu") for i, layer in enumerate(LAYERS))
    context = TaskContext("keras3", "tensorflow", layers=fused)

    def change(step: int, scalars: dict[str, float], table: Mapping[str, Floats]) -> None:
        table["activation_std"][:] /= 3  # behind the activation

    other = _run(10, change, layers=fused, context=context)
    comparison = compare_runs(BASELINE, [other])
    assert not comparison.differs
    assert "framework: pytorch → keras3" in comparison.setup
    assert compare_runs(BASELINE, [_run(10, change)]).differs


def test_probabilities_of_normal_values() -> None:
    z = np.array([0.0, 1.0, 1.96, 5.0, 30.0])
    expected = [math.log(math.erfc(value / math.sqrt(2))) for value in z]
    assert log_p(z) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_simes_is_a_probability_of_chance() -> None:
    draw = np.random.default_rng(0)
    rejected = [simes(draw.standard_normal(200)) < math.log(0.05) for _ in range(400)]
    assert 0.02 < np.mean(rejected) < 0.09
    assert simes(np.array([np.nan])) == 0.0
