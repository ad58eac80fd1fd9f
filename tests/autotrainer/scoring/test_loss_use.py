"""What is measured of custom losses: which judge outputs by their distance from the targets, and which do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.scoring.loss_use import with_measured_loss

RANDOM = np.random.default_rng(0)
REAL = RANDOM.normal(size=(128, 1)).astype(np.float32)
FAR = 5000 + 300 * REAL
SKEWED = np.exp(0.7 * REAL)
COUNTS = RANDOM.poisson(np.exp(0.5 * REAL + 0.5)).astype(np.float32)
LABELS = (REAL > 0).astype(np.float32)
CLASSES = RANDOM.integers(0, 3, 128)
TIMES = np.concatenate([np.abs(REAL), LABELS], axis=1)
VECTORS = RANDOM.normal(size=(128, 4)).astype(np.float32)


def quantile(share: float) -> Any:
    return lambda o, y: np.maximum(share * (y - o), (share - 1) * (y - o)).mean()


def pairs(o: Any, y: Any) -> Any:
    order = np.sign(y - y.T)
    return np.log1p(np.exp(-order * (o - o.T)))[order != 0].mean()


def hazards(o: Any, y: Any) -> Any:
    order = np.argsort(-y[:, 0])
    scores, seen = o[order, 0], y[order, 1]
    return -((scores - np.logaddexp.accumulate(scores)) * seen).sum() / seen.sum()


def correlation(o: Any, y: Any) -> Any:
    return 1 - np.corrcoef(o[:, 0], y[:, 0])[0, 1]


def concordance(o: Any, y: Any) -> Any:
    covariance = ((o - o.mean()) * (y - y.mean())).mean()
    return 1 - 2 * covariance / (o.var() + y.var() + (o.mean() - y.mean()) ** 2)


def kernel(o: Any, y: Any) -> Any:
    """Return a distance of two distributions, whatever the order of the rows."""
    near = [np.exp(-((a - b.T) ** 2)).mean() for a, b in ((o, o), (y, y), (o, y))]
    return near[0] + near[1] - 2 * near[2]


def log_softmax(o: Any) -> Any:
    return o - np.logaddexp.reduce(o, axis=1, keepdims=True)


def smoothed(o: Any, y: Any) -> Any:
    logs = log_softmax(o)
    return -0.9 * logs[np.arange(len(y)), y].mean() - 0.1 * logs.mean()


def alike(o: Any, y: Any) -> Any:
    """Return a contrastive loss of embeddings of the same class."""
    unit = o / np.linalg.norm(o, axis=1, keepdims=True)
    logs = log_softmax(unit @ unit.T / 0.2)
    return -logs[y[:, None] == y].mean()


def focal(o: Any, y: Any) -> Any:
    entropy = np.logaddexp(0, o) - y * o
    return ((1 - np.exp(-entropy)) ** 2 * entropy).mean()


def focal_of_probabilities(o: Any, y: Any) -> Any:
    share = np.where(y > 0.5, o, 1 - o).clip(1e-6, 1)
    return -((1 - share) ** 2 * np.log(share)).mean()


def overlap(o: Any, y: Any) -> Any:
    share = 1 / (1 + np.exp(-o))
    return 1 - 2 * (share * y).sum() / (share.sum() + y.sum())


def overlap_of_probabilities(o: Any, y: Any) -> Any:
    return 1 - 2 * (o * y).sum() / (o.sum() + y.sum())


def cosine(o: Any, y: Any) -> Any:
    return 1 - ((o * y).sum(1) / np.linalg.norm(o, axis=1) / np.linalg.norm(y, axis=1)).mean()


def measured(loss: Any, targets: Any, outputs: Any = None, *, single: bool = True) -> LossInfo:
    if outputs is None:
        outputs = RANDOM.normal(size=np.shape(targets)).astype(np.float32)
    context = TaskContext(loss=LossInfo(), output_units=outputs.shape[1] if outputs.ndim > 1 else 1)
    value = lambda others, labels: float(loss(outputs if others is None else others, labels))  # noqa: E731
    return with_measured_loss(context, value, outputs, targets, single=single).loss


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        pytest.param(lambda o, y: ((o - y) ** 2).mean(), REAL, id="squared error"),
        pytest.param(lambda o, y: ((o - y) ** 2).mean(), FAR, id="squared error of prices"),
        pytest.param(lambda o, y: ((o - y) ** 2).mean(), SKEWED, id="squared error of skewed targets"),
        pytest.param(lambda o, y: ((o - y) ** 2).mean(), VECTORS, id="squared error of vectors"),
        pytest.param(lambda o, y: np.sqrt(((o - y) ** 2).mean()), REAL, id="root of the squared error"),
        pytest.param(lambda o, y: np.abs(o - y).mean(), REAL, id="absolute error"),
        pytest.param(lambda o, y: np.abs(o - y).mean(), SKEWED, id="absolute error of skewed targets"),
        pytest.param(lambda o, y: np.log(np.cosh(o - y)).mean(), REAL, id="log-cosh"),
        pytest.param(lambda o, y: np.maximum(np.abs(o - y) - 0.3, 0).mean(), REAL, id="insensitive"),
        pytest.param(lambda o, y: 1 - np.exp(-((o - y) ** 2)).mean(), REAL, id="bounded"),
        pytest.param(lambda o, y: ((1 + np.abs(y)) * (o - y) ** 2).mean(), REAL, id="weighted by the target"),
        pytest.param(quantile(0.5), REAL, id="median"),
        pytest.param(quantile(0.6), REAL, id="quantile near the median"),
        pytest.param(lambda o, y: (o - y * np.log(o + 1e-8)).mean(), COUNTS, id="likelihood of rates"),
        pytest.param(lambda o, y: (np.log(o) + y / o).mean(), SKEWED, id="gamma likelihood of means"),
        pytest.param(concordance, REAL, id="concordance"),
        pytest.param(smoothed, CLASSES, id="smoothed cross-entropy"),
        pytest.param(focal, LABELS, id="focal"),
        pytest.param(focal_of_probabilities, LABELS, id="focal of probabilities"),
        pytest.param(overlap, LABELS, id="overlap"),
    ],
)
def test_losses_that_compare_outputs_with_targets(loss: Any, targets: Any) -> None:
    outputs = None if targets is not CLASSES else RANDOM.normal(size=(128, 3)).astype(np.float32)
    info = measured(loss, targets, outputs)
    assert not info.indirect
    assert not info.ignores_targets


@pytest.mark.parametrize(
    ("loss", "targets", "units"),
    [
        pytest.param(lambda o, y: (np.exp(o) - y * o).mean(), COUNTS, 1, id="Poisson with the logarithm of the rate"),
        pytest.param(lambda o, y: (np.exp(o) - y * o).mean(), 100 * COUNTS, 1, id="rates beyond single precision"),
        pytest.param(lambda o, y: (o + y * np.exp(-o)).mean(), SKEWED, 1, id="gamma with the logarithm of the mean"),
        pytest.param(lambda o, y: ((o - np.log(y)) ** 2).mean(), SKEWED, 1, id="squared error of logarithms"),
        pytest.param(lambda o, y: ((o - (y - 5000) / 300) ** 2).mean(), FAR, 1, id="scaled in the loss"),
        pytest.param(quantile(0.9), REAL, 1, id="upper quantile"),
        pytest.param(quantile(0.1), REAL, 1, id="lower quantile"),
        pytest.param(pairs, REAL, 1, id="ranks"),
        pytest.param(hazards, TIMES, 1, id="hazards"),
        pytest.param(correlation, FAR, 1, id="correlation"),
        pytest.param(cosine, VECTORS, 4, id="cosine"),
        pytest.param(kernel, REAL, 1, id="distance of distributions"),
        pytest.param(lambda o, y: -(np.tanh(o) * y).mean(), REAL, 1, id="profit"),
        pytest.param(alike, CLASSES, 8, id="contrastive"),
        pytest.param(lambda o, y: -smoothed(o, y), CLASSES, 3, id="high for the true class"),
        pytest.param(pairs, LABELS, 1, id="ranks of labels"),
    ],
)
def test_losses_that_do_not(loss: Any, targets: Any, units: int) -> None:
    info = measured(loss, targets, RANDOM.normal(size=(128, units)).astype(np.float32))
    assert info.indirect
    assert not info.ignores_targets


@pytest.mark.parametrize("targets", [np.zeros((128, 1), np.float32), np.zeros(128, np.int64), CLASSES, REAL])
@pytest.mark.parametrize("single", [True, False])
def test_losses_without_targets(targets: Any, single: bool) -> None:
    outputs = RANDOM.normal(size=(128, 6)).astype(np.float32)
    info = measured(lambda o, y: ((o[:, :3] - o[:, 3:]) ** 2).mean(), targets, outputs, single=single)
    assert info.indirect
    assert info.ignores_targets


def test_equal_outputs_show_no_loss_without_targets() -> None:
    """A classifier whose last layer starts at zero has the same loss for all targets."""
    equal = np.zeros((128, 3), np.float32)
    assert not measured(smoothed, CLASSES, equal).indirect
    assert not measured(smoothed, CLASSES, equal, single=False).indirect


@pytest.mark.parametrize(
    ("loss", "cut"),
    [
        pytest.param(focal, 0.0, id="logits"),
        pytest.param(overlap, 0.0, id="overlap of logits"),
        pytest.param(focal_of_probabilities, None, id="probabilities"),
        pytest.param(lambda o, y: ((o - y) ** 2).mean(), None, id="squared error of labels"),
        pytest.param(lambda o, y: np.maximum(1 - (2 * y - 1) * o, 0).mean(), 0.0, id="hinge"),
    ],
)
def test_where_an_output_means_1(loss: Any, cut: float | None) -> None:
    assert measured(loss, LABELS).cut == cut


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_probabilities_are_not_cut_at_0(activation: str | None) -> None:
    """The overlap gets better below 0, where the outputs of a sigmoid never are."""
    outputs = RANDOM.uniform(0.2, 0.8, LABELS.shape).astype(np.float32)
    context = TaskContext(loss=LossInfo(), output_units=1, output_activation=activation)

    def cut(loss: Any, context: TaskContext) -> float | None:
        value = lambda others, labels: float(loss(outputs if others is None else others, labels))  # noqa: E731
        return with_measured_loss(context, value, outputs, LABELS, single=True).loss.cut

    assert cut(overlap_of_probabilities, context) is None
    assert cut(focal, replace(context, output_activation="linear")) == 0


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda o, y: (np.abs(o - y) / (np.abs(y) + 1e-7)).mean(), id="relative error"),
        pytest.param(concordance, id="concordance"),
        pytest.param(lambda o, y: 1 - np.exp(-((o - y) ** 2)).mean(), id="bounded"),
    ],
)
def test_rounding_far_from_the_targets_does_not_hide_them(loss: Any) -> None:
    prices = 300_000 + 80_000 * REAL
    outputs = 0.1 * RANDOM.normal(size=REAL.shape).astype(np.float32)
    assert not measured(loss, prices, outputs).ignores_targets


def test_what_a_loss_refuses_shows_nothing() -> None:
    def strict(o: Any, y: Any) -> Any:
        if (o != outputs).any():
            raise ValueError("unknown outputs")
        return ((o - y) ** 2).mean()

    outputs = RANDOM.normal(size=REAL.shape).astype(np.float32)
    context = TaskContext(loss=LossInfo(family="squared_error"))
    assert with_measured_loss(context, strict, outputs, REAL, single=True) is context
    assert not measured(strict, REAL, outputs, single=False).indirect
