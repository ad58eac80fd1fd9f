"""Metrics: which one is selected, its value, and when a gain is more than noise."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrainer.adapter.spec import Evaluation
from autotrainer.errors import ConfigError, InputError
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.metrics import LossMetric, Metric, Score, WholeMetric
from autotrainer.scoring.scorer import Scorer
from autotrainer.scoring.significance import significant

MSE = LossInfo("mse", "squared_error", "values")
CE = LossInfo("ce", "cross_entropy", "logits")
BCE = LossInfo("bce", "binary_cross_entropy", "probabilities")
BCE_LOGITS = LossInfo("bce", "binary_cross_entropy", "logits")
POISSON = LossInfo("poisson", "poisson", "log_values")
CUSTOM = LossInfo()


def _select(loss: LossInfo, targets: Any, outputs: Any, metric: Any = "auto", mode: Any = None) -> tuple[Metric, float]:
    targets, outputs = np.asarray(targets), np.asarray(outputs, np.float64)
    summary = DataSummary()
    summary.add_targets(targets)
    evaluation = Evaluation(outputs, targets, 0.25)
    chosen = MetricSelection(metric, mode).select(TaskContext(loss=loss), summary.targets, evaluation)
    return chosen, chosen.score(evaluation).value


NAN = float("nan")


@pytest.mark.parametrize(
    ("loss", "targets", "outputs", "name", "value"),
    [
        pytest.param(CE, [0, 1, 2, 1], [[3, 1, 0], [0, 2, 1], [9, 0, 0], [0, 1, 0]], "accuracy", 0.75, id="indices"),
        pytest.param(CE, np.eye(3)[[0, 1, 2]], np.eye(3)[[0, 1, 1]], "accuracy", 2 / 3, id="one-hot"),
        pytest.param(MSE, np.eye(2)[[0, 1]], np.eye(2)[[0, 1]], "accuracy", 1.0, id="one-hot with squared error"),
        pytest.param(BCE, [0, 1, 1, 0], [0.2, 0.7, 0.4, 0.4], "accuracy", 0.75, id="one unit, probabilities"),
        pytest.param(BCE, [[0.0], [1.0]], [[0.2], [0.7]], "accuracy", 1.0, id="one unit, columns"),
        pytest.param(BCE_LOGITS, [0, 1, 1, 0], [-2, 0.2, 0.4, 0.4], "accuracy", 0.75, id="one unit, logits"),
        pytest.param(MSE, [0, 1, 1, 0], [0.2, 0.7, 0.4, 0.4], "accuracy", 0.75, id="0 and 1 with squared error"),
        pytest.param(MSE, [-1, 1, 1, -1], [-0.2, 0.7, 0.4, 0.4], "accuracy", 0.75, id="signed"),
        pytest.param(
            BCE, [[0, 1, 1], [1, 1, 0]], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.1]], "accuracy", 5 / 6, id="multi-label"
        ),
        pytest.param(BCE, [0, 1, 2, 2], [0.1, 0.9, 0.9, 0.9], "accuracy", 0.5, id="one unit for three classes"),
        pytest.param(
            CE,
            [[0, 1, -100], [1, -100, -100]],
            [[[1, 0], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1]]],
            "accuracy",
            2 / 3,
            id="sequences over unmasked tokens",
        ),
        pytest.param(MSE, [1.5, 2.5, 3.5], [1.5, 2.5, 3.5], "r2", 1.0, id="regression"),
        pytest.param(BCE, [1.5, 2.5, 3.5], [1.5, 2.5, 3.5], "r2", 1.0, id="no labels, whatever the loss"),
        pytest.param(MSE, [1.5, 2.5, 3.5], [[2.5], [2.5], [2.5]], "r2", 0.0, id="the mean, in a column"),
        pytest.param(CUSTOM, [[1.5, 0], [2.5, 7]], [[1.5, 3.5], [2.5, 3.5]], "r2", 0.5, id="two outputs"),
        pytest.param(CUSTOM, [1.5, 2.5], [[1, 2, 3], [1, 2, 3]], "negative loss", -0.25, id="no common shape"),
        pytest.param(MSE, [1.5, 1.5], [1.5, 1.0], "negative loss", -0.25, id="constant targets"),
        pytest.param(CE, [0, 1], [[NAN, NAN], [0, 1]], "accuracy", 0.5, id="not finite is wrong"),
        pytest.param(BCE, [0, 0], [[NAN], [0.1]], "accuracy", 0.5, id="not finite is wrong, one unit"),
        pytest.param(MSE, [1.5, 2.5], [NAN, math.inf], "r2", -1.0, id="not finite is -1"),
        pytest.param(POISSON, [1.5, 2.5, 3.5], [0.4, 0.9, 1.2], "negative loss", -0.25, id="logarithms of counts"),
        pytest.param(CUSTOM, [], [], "negative loss", -0.25, id="nothing but a loss"),
        pytest.param(LossInfo(of_distance=True), [0, 1], [[0.9], [0.1]], "negative loss", -0.25, id="a distance"),
    ],
)
def test_automatic_metric(loss: LossInfo, targets: Any, outputs: Any, name: str, value: float) -> None:
    metric, result = _select(loss, targets, outputs)
    assert metric.name == name
    assert result == pytest.approx(value)


@pytest.mark.parametrize(
    ("metric", "targets", "outputs", "value"),
    [
        ("mse", [1.5, 2.5], [[2.5], [2.5]], 0.5),
        ("mae", [1.5, 2.5], [2.5, 2.5], 0.5),
        ("loss", [0.5, 0.25], [2.5, 2.5], 0.25),
        ("auc", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ("auc", [0, 1, 0, 1], [[0.5], [0.5], [0.5], [0.5]], 0.5),
        ("auc", np.eye(2)[[0, 1]], [[0.9, 0.1], [0.2, 0.8]], 1.0),
        ("r2", [0, 1, 1, 0], [0, 1, 1, 0], 1.0),
        (lambda y, p: np.float32(3), [0, 1], [0, 1], 3.0),
        (lambda y, p: np.array([[2]]), [0, 1], [0, 1], 2.0),
    ],
)
def test_named_and_callable_metrics(metric: Any, targets: Any, outputs: Any, value: float) -> None:
    assert _select(BCE, targets, outputs, metric)[1] == pytest.approx(value)


def test_loss_that_is_not_defined_for_the_targets_is_no_metric(caplog: pytest.LogCaptureFixture) -> None:
    for loss, targets in ((BCE, [1.5, 2.5, 3.5]), (POISSON, [-1.5, 2.5, 3.5])):
        metric, result = _select(loss, targets, targets, "loss")
        assert (metric.name, result) == ("r2", 1.0)
        assert _select(loss, targets, targets)[0].name == "r2"
    assert caplog.text.count("losses can't be compared") == 2


@pytest.mark.parametrize(
    ("metric", "targets", "outputs", "message"),
    [
        ("accuracy", [0.5, 1.7], [0.5, 1.7], "accuracy"),
        ("r2", [1.0, 1.0], [0.5, 1.7], "r2"),
        ("mse", [1.0, 1.0], [[0.5, 1], [1, 1.7]], "mse"),
        ("auc", [0, 1], np.eye(3)[[0, 1]], "two classes"),
        (lambda y, p: None, [0, 1], [0, 1], "one number"),
        (lambda y, p: y, [0, 1], [0, 1], "one number"),
        (lambda y, p: [][1], [0, 1], [0, 1], "fails"),
        ("mse", [], [], "step"),
    ],
)
def test_incompatible_metrics_are_rejected(metric: Any, targets: Any, outputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _select(CUSTOM, targets, outputs, metric)


def test_contradicting_modes_are_rejected() -> None:
    assert MetricSelection("loss", "min")
    assert _select(MSE, [0.1, 0.3], [0.1, 0.3], lambda y, p: 1.0, "min")[0].sign == -1
    with pytest.raises(ConfigError, match="mode"):
        MetricSelection("accuracy", "min")


def _pair(metric: Any, targets: Any, new: Any, old: Any, loss: LossInfo = MSE, mode: Any = None) -> bool:
    chosen, _ = _select(loss, targets, old, metric, mode)
    targets = np.asarray(targets)
    both = [chosen.score(Evaluation(np.asarray(p, np.float64), targets, 0.0)) for p in (new, old)]
    return chosen.better(*both)


def test_accuracy_gain_needs_at_least_five_rows() -> None:
    targets = np.tile([0, 1], 50)
    old = targets.copy()
    old[:10] = 1 - old[:10]
    for mended, better in ((4, False), (5, True)):
        new = old.copy()
        new[:mended] = targets[:mended]
        assert _pair("auto", targets, new, old, BCE) is better
    swapped = old.copy()
    swapped[:6], swapped[90:94] = targets[:6], 1 - targets[90:94]
    assert not _pair("auto", targets, swapped, old, BCE), "six won and four lost is noise"
    assert not _pair("auto", targets, old, old, BCE)


def test_r2_of_many_outputs_is_the_share_of_their_whole_variance() -> None:
    random = np.random.default_rng(0)
    pixels = random.normal(size=(100, 20))
    pixels[:, 7] = 1e-4 * (np.arange(100) == 3)  # hardly varies: its own R² would be -1e8
    outputs = pixels + 0.5 * random.normal(size=pixels.shape)
    assert _select(MSE, pixels, outputs)[1] == pytest.approx(0.74, abs=0.03)
    assert _select(MSE, pixels[:, 6:9], outputs[:, 6:9])[1] < -100, "few may have different units"


def test_r2_gains_are_paired() -> None:
    random = np.random.default_rng(0)
    targets = random.normal(size=100)
    near, far = targets + 0.1 * random.normal(size=100), targets + random.normal(size=100)
    assert _pair("auto", targets, near, far)
    assert not _pair("auto", targets, far, near)
    one_wild = near.copy()
    one_wild[3] = 1e9
    assert not _pair("auto", targets, near, one_wild), "a single row proves nothing"
    diverged = 1e6 * np.exp(5 * random.normal(size=100))
    assert _pair("auto", targets, near, diverged), "a few huge errors must not hide that all rows are better"
    assert _pair("auto", targets, near, np.full(100, np.nan))
    assert not _pair("auto", targets, np.full(100, np.nan), -1e6 * targets), "R2 of -1, but not finite"


@pytest.mark.parametrize("metric", ["mse", "mae", "r2", "auc"])
def test_metrics_distinguish_gain_from_noise(metric: str) -> None:
    random = np.random.default_rng(1)
    targets = np.tile([0.0, 1.0], 60)
    good, bad = targets + 0.1 * random.normal(size=120), targets + 2 * random.normal(size=120)
    same = bad + 0.01 * random.normal(size=120)
    assert _pair(metric, targets, good, bad)
    assert not _pair(metric, targets, bad, good)
    assert not (_pair(metric, targets, same, bad) and _pair(metric, targets, bad, same))


def test_bootstrap_skips_failing_resamples() -> None:
    def both_classes(y: np.ndarray, p: np.ndarray) -> float:
        if y.sum() < 1:
            raise ValueError("no positive row")
        return float(np.mean((p > 0.5) == y))

    targets = np.zeros(50)
    targets[0] = 1
    assert _pair(both_classes, targets, targets, 1 - targets)
    assert _pair(both_classes, targets, targets, np.full(50, np.nan)), "not called on non-finite predictions"


def test_losses_are_compared_by_blocks() -> None:
    metric = LossMetric("loss", "min")
    low, high = (metric.score(Evaluation(np.zeros(3), np.zeros(3), loss)) for loss in (0.98, 1.0))
    assert not metric.better(low, high), "two percent without blocks is noise"
    blocks = np.linspace(0.5, 1.5, 20)
    assert metric.better(metric.with_blocks(low, blocks - 0.02), metric.with_blocks(high, blocks))
    noisy = blocks + np.tile([0.5, -0.54], 10)
    assert not metric.better(metric.with_blocks(low, noisy), metric.with_blocks(high, blocks))
    broken = metric.score(Evaluation(np.zeros(3), np.zeros(3), float("nan")))
    assert math.isinf(broken.value)
    assert metric.better(high, broken)
    assert not metric.better(broken, high)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60))
def test_opposite_gains_are_never_both_significant(gains: list[float]) -> None:
    values = np.array(gains)
    assert not (significant(values) and significant(-values))


def test_false_positive_rate_is_near_five_percent() -> None:
    random = np.random.default_rng(0)
    normal = np.mean([significant(random.normal(size=20)) for _ in range(2000)])
    flips = np.mean([significant(random.choice([-1.0, 0.0, 1.0], size=100)) for _ in range(2000)])
    assert 0.035 < normal < 0.065
    assert 0.01 < flips < 0.06


def test_rows_without_target_do_not_count() -> None:
    targets = np.array([0.0, 1.0, np.nan, 3.0])
    scorer = Scorer(
        MetricSelection(), TaskContext(loss=LossInfo("mse", "squared_error", "values")), ArrayData(targets, targets)
    )
    score = scorer.score(Evaluation(np.array([0.0, 1.0, 7.0, 3.0]), targets, float("nan")))
    assert scorer.metric is not None
    assert (scorer.metric.name, score.value) == ("r2", 1.0)


@pytest.mark.parametrize(
    ("outputs", "score"), [([0.1, 0.9, 0.2, 0.8], 1.0), ([0.9, 0.9, 0.9, 0.8], 0.5), ([0.9, 0.9, 0.9, np.nan], 0.25)]
)
def test_one_unit_predicts_the_higher_of_two_labels(outputs: Any, score: float) -> None:
    metric, value = _select(BCE, np.array([[1.0], [2.0], [1.0], [2.0]]), np.array(outputs)[:, None])
    assert (metric.name, value) == ("accuracy", score)


@pytest.mark.parametrize(
    ("loss", "metric", "targets", "outputs", "fits"),
    [
        pytest.param(MSE, "auto", [[1.5]], [[1.49]], True, id="loss"),
        pytest.param(MSE, "auto", [[1.5]], [[0.1]], False, id="loss, not fitted"),
        pytest.param(MSE, "mse", [[1.5]], [[1.49]], True, id="squared error"),
        pytest.param(MSE, "mae", [[1.5]], [[0.1]], False, id="absolute error, not fitted"),
        pytest.param(CE, "auto", [1], [[0.0, 3.0, 1.0]], True, id="class"),
        pytest.param(CE, "auto", [1], [[4.0, 3.0, 1.0]], False, id="class, not fitted"),
    ],
)
def test_single_row_is_judged_by_how_far_it_is_fitted(
    loss: LossInfo, metric: str, targets: Any, outputs: Any, fits: bool
) -> None:
    targets, outputs = np.asarray(targets), np.asarray(outputs)
    scorer = Scorer(MetricSelection(metric), TaskContext(loss=loss), ArrayData(targets, targets), exact=True)
    score = scorer.score(Evaluation(outputs, targets, float(np.mean((outputs - np.mean(targets)) ** 2))))
    assert scorer.judge(score).clear is fits


def test_gain_on_all_rows_there_are_has_no_sampling_noise() -> None:
    targets, half, most, full = np.array([0, 1, 1, 0]), [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]
    for exact in (False, True):
        scorer = Scorer(MetricSelection(), TaskContext(loss=BCE), ArrayData(targets, targets), exact=exact)
        low, middle, high = (scorer.score(Evaluation(np.array(o), targets, 0.5)) for o in (half, most, full))
        metric = scorer.metric
        assert metric is not None
        assert metric.better(high, low) is exact
        assert not metric.better(low, high)
        assert not metric.better(high, low, 3.09)
        assert scorer.judge(high).clear
        assert not scorer.judge(middle).clear


def test_gain_below_a_twentieth_of_the_error_is_none() -> None:
    targets = np.arange(6.0)
    scorer = Scorer(MetricSelection(), TaskContext(loss=MSE), ArrayData(targets, targets), exact=True)
    old, little, much = (scorer.score(Evaluation(targets + e, targets, 0.5)) for e in (1.0, 0.99, 0.9))
    assert scorer.metric is not None
    assert not scorer.metric.better(little, old)
    assert scorer.metric.better(much, old)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_finite_score_is_better_than_an_infinite_one(exact: bool, mode: Any) -> None:
    for metric in (LossMetric("loss", mode), WholeMetric("m", mode, lambda y, p: 0.5, 0)):
        metric.exact = exact
        worst, best = (Score(sign * metric.sign * math.inf, 0.0, None, None) for sign in (-1, 1))
        finite = Score(605.0, 0.0, None, None)
        assert metric.better(finite, worst)
        assert not metric.better(worst, finite)
        assert not metric.better(worst, worst)
        assert not metric.better(finite, best)
        assert not metric.better(replace(finite, nonfinite=0.1), worst)


def test_step_that_returns_the_loss_alone_has_no_outputs() -> None:
    data = ArrayData(np.zeros((4, 2)), np.zeros(4))
    scorer = Scorer(MetricSelection(), TaskContext(loss=CUSTOM), data)
    assert scorer.score(Evaluation(np.zeros(0), np.zeros(0), 0.25)).value == -0.25


def test_labels_of_pairs_are_not_compared_with_both_outputs() -> None:
    targets, outputs = np.tile([1.0, -1.0], 4), np.ones((8, 2, 1))
    assert _select(CUSTOM, targets, outputs)[0].name == "negative loss"


RARE = np.r_[np.zeros(200, int), np.ones(20, int)]
"""Labels of two classes, one of which is ten times as frequent as the other."""


@pytest.mark.parametrize(
    ("targets", "units"),
    [
        pytest.param(RARE, 2, id="ten to one"),
        pytest.param(np.eye(2)[RARE], 2, id="one-hot"),
        pytest.param(np.arange(220) % 2, 2, id="equally frequent"),
        pytest.param(np.r_[np.zeros(2000, int), np.repeat(np.arange(1, 12), 20)], 12, id="a long tail"),
    ],
)
def test_rare_classes_count_as_much_as_common_ones_on_request(targets: Any, units: int) -> None:
    outputs = np.eye(units)[np.zeros(len(targets), int)]  # always the same class
    assert _select(CE, targets, outputs)[0].name == "accuracy"
    metric, score = _select(CE, targets, outputs, "balanced_accuracy")
    assert metric.name == "balanced_accuracy"
    assert score == pytest.approx(1 / units)


def test_a_class_for_each_time_step_has_no_balanced_accuracy() -> None:
    with pytest.raises(InputError, match="balanced_accuracy"):
        _select(CE, RARE[:, None].repeat(3, axis=1), np.ones((220, 3, 2)), "balanced_accuracy")


def test_outputs_that_are_parameters_of_a_distribution_have_no_r2() -> None:
    targets, outputs = np.array([[1.0], [2.0], [4.0]]), np.array([[1.0, 0.1], [2.5, 0.2], [3.0, 0.1]])
    assert _select(CUSTOM, targets, outputs)[0].name == "negative loss"
    squared = Evaluation(outputs, targets, float(((outputs - targets) ** 2).mean()))
    summary = DataSummary()
    summary.add_targets(targets)
    assert MetricSelection().select(TaskContext(loss=CUSTOM), summary.targets, squared).name == "r2"
    assert _select(MSE, targets, outputs)[0].name == "r2"


def test_a_binary_output_is_scored_by_balanced_accuracy_on_request() -> None:
    metric, score = _select(BCE, [0, 0, 0, 1], [0.1, 0.2, 0.9, 0.8], "balanced_accuracy")
    assert metric.name == "balanced_accuracy"
    assert score == pytest.approx((2 / 3 + 1) / 2)
    with pytest.raises(InputError, match="balanced_accuracy"):
        _select(MSE, [0.1, 0.7, 2.3], [0.1, 0.2, 0.3], "balanced_accuracy")


@pytest.mark.parametrize(("gained", "lost", "better"), [(3, 0, False), (6, 0, True), (8, 12, True), (6, 60, False)])
def test_gain_in_balanced_accuracy_rests_on_several_rare_rows(gained: int, lost: int, better: bool) -> None:
    old = np.eye(2)[np.zeros(220, int)]
    new = old.copy()
    new[200 : 200 + gained], new[:lost] = [0, 1], [0, 1]
    assert _pair("balanced_accuracy", RARE, new, old, CE) is better
