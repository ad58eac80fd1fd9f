"""Baseline models: what they can learn, what they can't, and how their problem is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.diagnostics.balanced_comparison import BalancedComparison
from autotrainer.diagnostics.baseline_comparison import WORK, BaselineComparison
from autotrainer.diagnostics.baseline_models import TabularProblem, operations
from autotrainer.diagnostics.baseline_problem import features, make_problem
from autotrainer.diagnostics.label_alignment import label_alignment
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo, TaskContext

CLASSES = TaskContext(loss=LossInfo("ce", "cross_entropy", "logits", "either"), output_units=3, input_kind="values")
NUMBERS = TaskContext(loss=LossInfo("mse", "squared_error", "values"), output_units=1, input_kind="values")


def _problem(x: Any, y: np.ndarray, context: TaskContext = CLASSES, rows: int = 400) -> TabularProblem | None:
    summary = DataSummary()
    summary.add_targets(y)
    data = ArrayData(x, y)
    return make_problem(data.take(np.arange(rows)), data.take(np.arange(rows, len(y))), summary.targets, context)


def _scores(x: Any, y: np.ndarray, context: TaskContext = CLASSES) -> dict[str, float]:
    problem = _problem(x, y, context)
    assert problem is not None
    return problem.scores()


def _inputs(width: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(800, width)).astype(np.float32)


def test_linear_model_wins_on_linear_classes() -> None:
    x = _inputs(10)
    scores = _scores(x, (x.sum(axis=1) > 0).astype(np.int64))
    assert scores["linear_score"] > 0.95
    assert scores["linear_score"] > max(scores["neighbour_score"], scores["tree_score"])


def test_neighbours_and_trees_win_on_a_circle() -> None:
    x = _inputs()
    scores = _scores(x, ((x**2).sum(axis=1) > 1.4).astype(np.int64))
    assert scores["linear_score"] < 0.65
    assert min(scores["neighbour_score"], scores["tree_score"]) > 0.85


def test_regression_is_scored_by_r2() -> None:
    x = _inputs(5)
    scores = _scores(x, x[:, :2] @ np.array([[1.0, 2.0], [0.0, -1.0]]), NUMBERS)
    assert scores["linear_score"] == pytest.approx(1.0, abs=1e-3)
    assert 0.3 < scores["tree_score"] < 1


@pytest.mark.parametrize("width", [3, 700], ids=["few features", "more features than rows"])
def test_random_targets_give_trivial_scores(width: int) -> None:
    y = np.random.default_rng(2).integers(0, 3, 800)
    problem = _problem(_inputs(width), y)
    assert problem is not None
    assert problem.trivial == pytest.approx(1 / 3, abs=0.06)
    assert all(score < problem.trivial + 0.08 for score in problem.scores().values())
    noise = np.random.default_rng(3).normal(size=800)
    assert all(score < 0.05 for score in _scores(_inputs(width), noise, NUMBERS).values())


def test_wide_and_narrow_ridge_agree() -> None:
    x = np.c_[_inputs(30), np.zeros((800, 500))]
    y = x[:, 0] + 0.1 * np.random.default_rng(0).normal(size=800)
    problem = _problem(x, y, NUMBERS)
    assert problem is not None
    assert problem.inputs.shape[1] == 30, "constant features are left out"
    doubled = replace(problem, inputs=np.tile(problem.inputs, 20), held_inputs=np.tile(problem.held_inputs, 20))
    assert doubled.inputs.shape[1] > len(doubled.inputs)
    assert doubled.scores()["linear_score"] == pytest.approx(problem.scores()["linear_score"], abs=0.01)


def test_target_encodings_give_equal_scores() -> None:
    x = _inputs(4)
    index = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)
    forms = [index, index[:, None], np.eye(3)[index]]
    assert len({tuple(_scores(x, form).values()) for form in forms}) == 1


def test_masked_rows_do_not_count() -> None:
    x = _inputs()
    y = (x[:, 0] > 0).astype(np.int64)
    y[::4] = -100
    problem = _problem(x, y)
    assert problem is not None
    assert (len(problem.inputs), len(problem.held_inputs), problem.targets.shape[1]) == (300, 300, 2)


def test_class_missing_from_training_rows_counts_as_wrong() -> None:
    x = _inputs()
    y = (x[:, 0] > 0).astype(np.int64)
    y[600:] = 2
    problem = _problem(x, y)
    assert problem is not None
    assert max(problem.scores().values()) <= 0.5


def test_tokens_are_counted() -> None:
    tokens = np.random.default_rng(0).integers(1, 5000, (800, 12))
    tokens[::2, 3] = 7
    scores = _scores(tokens, np.tile([1, 0], 400), replace(CLASSES, input_kind="index"))
    assert scores["linear_score"] > 0.75
    assert scores["tree_score"] > 0.9
    assert features(tokens, tokens=False).shape == (800, 12)


def test_multiple_inputs_are_concatenated() -> None:
    parts = {"b": np.ones((5, 2)), "a": np.full((5, 2, 3), np.nan)}
    joined = features(parts, tokens=False)
    assert joined is not None
    assert joined.tolist() == [[0] * 6 + [1] * 2] * 5
    assert features((np.ones((5, 4000)), np.ones((5, 4000))), tokens=False) is None


@pytest.mark.parametrize(
    ("x", "y", "context"),
    [
        pytest.param(_inputs(), np.tile([1.0, 0.0, 1.0], (800, 1)), CLASSES, id="constant labels"),
        pytest.param(_inputs(), np.random.default_rng(0).integers(0, 3, (800, 5)), CLASSES, id="a tag a step"),
        pytest.param(_inputs(), np.zeros(800, np.int64), CLASSES, id="one class"),
        pytest.param(np.ones((800, 3)), np.tile([0, 1], 400), CLASSES, id="equal inputs"),
        pytest.param(np.ones((800, 80, 80)), np.tile([0, 1], 400), CLASSES, id="too wide"),
    ],
)
def test_unsuitable_data_give_no_problem(x: Any, y: np.ndarray, context: TaskContext) -> None:
    assert _problem(x, y, context) is None


def test_operations_grow_with_rows_and_features() -> None:
    sizes = [(100, 100, 10), (200, 100, 10), (200, 300, 10), (200, 300, 400), (1000, 1000, 3000)]
    counts = [operations(*size) for size in sizes]
    assert counts == sorted(set(counts))


def test_labels_are_scored_one_by_one() -> None:
    x = _inputs(4)
    scores = _scores(x, (x[:, :3] > 0.8).astype(np.float64), replace(NUMBERS, output_units=3))
    assert scores["kernel_score"] > 0.88
    problem = _problem(x, (x[:, :3] > 0.8).astype(np.float64), replace(NUMBERS, output_units=3))
    assert problem is not None
    assert problem.labels
    assert problem.trivial == pytest.approx(0.79, abs=0.03)


def test_tags_are_predicted_from_their_own_step_and_earlier_ones() -> None:
    x = np.random.default_rng(4).normal(size=(100, 8, 3))
    own, earlier = x.argmax(axis=-1), np.roll(x.argmax(axis=-1), 1, axis=1)
    for tags, low in ((own, 0.8), (earlier, 0.7)):
        problem = _problem(x, tags, rows=60)
        assert problem is not None
        assert problem.held_rows is not None
        assert problem.held_rows.tolist() == np.repeat(np.arange(40), 8).tolist()
        assert max(problem.scores().values()) > low
    later = _problem(x, np.roll(own, -1, axis=1), rows=60)
    assert later is not None
    assert max(later.scores().values()) < 0.5, "the next token would be its own label"


def test_reconstructions_get_a_code_of_the_same_size() -> None:
    x = np.random.default_rng(5).normal(size=(800, 2)) @ np.random.default_rng(6).normal(size=(2, 10))
    x += 0.1 * np.random.default_rng(7).normal(size=x.shape)
    layers = (LayerInfo("code", "dense", "linear", 2, 22), LayerInfo("out", "dense", "linear", 10, 30, hidden=False))
    scores = _scores(x, x, replace(NUMBERS, output_units=10, layers=layers))
    assert set(scores) == {"linear_score"}
    assert 0.8 < scores["linear_score"] < 1
    assert _problem(x, x, replace(NUMBERS, output_units=10)) is None, "the inputs are the targets"


def test_reconstructions_without_a_bottleneck_get_half_of_the_inputs_unless_a_copy_is_prevented() -> None:
    x = np.random.default_rng(5).normal(size=(800, 3))
    layers = (LayerInfo("code", "dense", "relu", 8, 32), LayerInfo("out", "dense", "linear", 3, 27, hidden=False))
    wide = replace(NUMBERS, output_units=3, layers=layers)
    assert _scores(x, x, wide)["linear_score"] == pytest.approx(2 / 3, abs=0.05), "two of three equal components"
    for prevented in ({"dropout": 0.2}, {"penalized": True}, {"loss": replace(wide.loss, composite=True)}):
        assert _problem(x, x, replace(wide, **prevented)) is None


def test_work_counts_the_columns_of_the_targets_and_only_some_labels_are_predicted() -> None:
    assert operations(200, 200, 10, 256) > 4 * operations(200, 200, 10, 1)
    x = np.random.default_rng(5).normal(size=(120, 4))
    labels = (x[:, [0]] > np.linspace(-1, 1, 1000)).astype(np.float64)
    context = replace(NUMBERS, output_units=1000)
    problem = _problem(x, labels, context, rows=60)
    assert problem is not None
    assert problem.columns is not None
    assert problem.targets.shape[1] == len(problem.columns) == 256


def test_rows_that_are_too_wide_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    data = ArrayData(np.zeros((500, 5000), np.float32), np.tile([0, 1], 250))
    monkeypatch.setattr(
        ArrayData, "take", lambda self, rows, take=ArrayData.take: taken.append(rows) or take(self, rows)
    )
    summary = DataSummary()
    summary.add_targets(data.targets)
    assert BaselineComparison.fit(data, data, None, summary.targets, CLASSES, 1e9) is None
    assert label_alignment(data, summary.targets, CLASSES, 0) == {}
    assert set(map(str, taken)) == {"slice(0, 2, None)"}


@pytest.mark.parametrize(("gap", "recognized"), [(2.0, True), (0.0, False)])
def test_weighted_classes_recognize_the_rare_one_where_the_inputs_show_it(gap: float, recognized: bool) -> None:
    random = np.random.default_rng(0)
    y = (random.random(3000) < 0.05).astype(np.int64)
    x = random.normal(size=(3000, 4)).astype(np.float32)
    x[:, 0] += gap * y
    summary = DataSummary()
    summary.add_targets(y)
    parts = ArrayData(x[:2000], y[:2000]), ArrayData(x[2000:], y[2000:])
    comparison = BalancedComparison.fit(*parts, summary.targets, CLASSES, WORK, seed=0)
    assert comparison is not None
    assert comparison.crossed is not None
    for part in (comparison, comparison.crossed):
        assert part.weights.sum() == pytest.approx(1)
        assert (float((part.right * part.weights).sum()) > 0.75) is recognized


@pytest.mark.parametrize(
    ("levels", "order", "named"),
    [
        pytest.param(20, False, True, id="without an order"),
        pytest.param(60, False, True, id="many"),
        pytest.param(20, True, False, id="in order"),
        pytest.param(2, False, False, id="two"),
        pytest.param(400, False, False, id="too many for the rows"),
    ],
)
def test_whole_numbers_without_an_order_are_categories(levels: int, order: bool, named: bool) -> None:
    random = np.random.default_rng(1)
    codes, effect = random.integers(0, levels, 1200), np.linspace(-2, 2, levels)
    x = np.column_stack([random.normal(size=(1200, 3)), codes]).astype(np.float32)
    y = x[:, :1] + (effect if order else random.permutation(effect))[codes][:, None]
    summary = DataSummary()
    summary.add_targets(y)
    data = ArrayData(x, y)
    parts = data.take(np.arange(800)), data.take(np.arange(800, 1200))
    comparison = BaselineComparison.fit(*parts, None, summary.targets, NUMBERS, WORK)
    assert comparison is not None
    assert ("category_column" in comparison.facts) is named
    if named:
        assert comparison.facts["linear_score"] > 0.8
        assert (comparison.facts["category_column"], comparison.facts["category_levels"]) == (3, levels)
