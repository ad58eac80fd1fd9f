from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotrainer.monitoring.targets.class_weights import ClassWeights

COUNTS = np.array([640, 160, 40, 10])
LABELS = np.repeat(np.arange(4), COUNTS)
ONE_HOT = np.eye(4)[LABELS]
TWO = (LABELS > 1).astype(np.float32)


def columns(targets: Any, weights: Any, *, one_hot: bool = False, parts: int = 8) -> dict[str, float]:
    """Return what is known after all rows, given in parts in random order."""
    summary, values = ClassWeights(), dict[str, float]()
    order = np.random.default_rng(0).permutation(len(targets))
    for rows in np.array_split(order, parts):
        values = summary.add(targets[rows], weights[rows], one_hot=one_hot)
    return values


@pytest.mark.parametrize(("power", "slope"), [(-1, -1), (-0.5, -0.5), (1, 1), (2, 2)])
@pytest.mark.parametrize("form", ["index", "column", "one_hot", "two"])
def test_slope_is_that_of_weights_over_frequencies(form: str, power: float, slope: float) -> None:
    labels = TWO.astype(int) if form == "two" else LABELS
    counts = np.bincount(labels)
    weights = (counts / counts.mean()) ** power
    targets = {"index": LABELS, "column": LABELS[:, None], "one_hot": ONE_HOT, "two": TWO[:, None]}[form]
    values = columns(targets, weights[labels], one_hot=form == "one_hot")
    assert values["weight_slope"] == pytest.approx(slope)
    assert values["weight_correlation"] == pytest.approx(np.sign(slope))
    ratio = counts.max() / counts.min()
    assert (values["class_ratio"], values["weight_ratio"]) == (pytest.approx(ratio), pytest.approx(ratio**power))


def test_labels_in_columns_are_compared_within_each_column() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.05, 0.1, 0.2, 0.5])
    labels = (rng.random((4000, 4)) < shares).astype(np.float32)
    odds = labels.mean(0) / (1 - labels.mean(0))
    balanced, inverted = (columns(labels, np.where(labels == 1, weight, 1.0)) for weight in (1 / odds, odds))
    assert balanced["weight_slope"] == pytest.approx(-1, rel=0.1)  # only some of the rows are counted
    assert inverted["weight_slope"] == pytest.approx(1, rel=0.1)
    assert inverted["class_ratio"] == pytest.approx(19, rel=0.15)
    assert inverted["weight_ratio"] == pytest.approx(19, rel=0.1)


def test_rows_in_order_of_their_classes_do_not_invert_weights() -> None:
    labels = np.repeat([1, 0], [100, 900])  # in order of class: the first rows show the rare class alone
    weights = np.where(labels == 1, 9.0, 1.0)
    summary = ClassWeights()
    for rows in np.array_split(np.arange(1000), 10):
        assert summary.add(labels[rows], weights[rows], one_hot=False).get("weight_slope", -1) < 0


@pytest.mark.parametrize(
    ("targets", "weights"),
    [
        pytest.param(LABELS, np.ones(850), id="equal"),
        pytest.param(LABELS, np.linspace(0.5, 2, 850), id="of rows"),
        pytest.param(LABELS * 0, np.full(850, 2.0), id="one class"),
        pytest.param(LABELS, np.ones((850, 3)), id="of another shape"),
        pytest.param(np.full(850, np.nan), np.ones(850), id="not finite"),
    ],
)
def test_other_weights_are_unknown(targets: Any, weights: Any) -> None:
    assert columns(targets, weights) == {}


def test_masked_and_unweighted_classes_do_not_count() -> None:
    weights = np.where(LABELS == 0, 0.0, COUNTS[LABELS])
    masked = np.where(LABELS == 3, -100, LABELS)
    assert columns(masked, weights)["class_ratio"] == pytest.approx(4)
