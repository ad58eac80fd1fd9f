"""Repeated seeds: which training is run again, and what it tells of a gain."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.edits import SetLearningRate
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import LossInfo, OptimizerInfo, TaskContext
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.metrics import LossMetric, Metric
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.seed_repeats import SeedRepeats, Verdict
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

CONTEXT = TaskContext(
    loss=LossInfo("bce", "binary_cross_entropy", "probabilities"), optimizer=OptimizerInfo("sgd", 0.1)
)
EDITS = (SetLearningRate(0.01),)


class Scores:
    """Trials that predict a number of rows right, the first ones, of a validation set."""

    def __init__(self, rows: int) -> None:
        self.targets = np.tile([0, 1], (rows + 1) // 2)[:rows]
        self._judge = Scorer(MetricSelection("accuracy"), CONTEXT, ArrayData(np.zeros((rows, 1)), self.targets))
        self.given = self.trial(rows // 2)

    def trial(self, right: int, *problems: str, edits: tuple[SetLearningRate, ...] = (), seed: int = 0) -> Trial:
        outputs = np.where(np.arange(len(self.targets)) < right, self.targets, 1 - self.targets)
        judged = self._judge.score(Evaluation(outputs, self.targets, 0.0))
        findings = tuple(Finding(p, "AT000", Severity.ERROR, 1.0, p) for p in problems)
        spec = TrainingSpec(10, seed, edits)
        return Trial(spec, None, judged, findings, CONTEXT, {}, 100, False, total=100)

    @property
    def metric(self) -> Metric:
        assert self._judge.metric is not None
        return self._judge.metric

    def repetitions(self, budget: float = math.inf, given_work: int = 100) -> SeedRepeats:
        limit = Budget(budget)
        limit.measure(100)
        self.given.total = given_work
        return SeedRepeats(self.metric, self.given, limit)


@pytest.mark.parametrize(
    ("rows", "more", "problems", "asks"),
    [
        (100, 10, (), False),  # ten more rows right and none less: p < 0.001
        (100, 9, (), True),
        (100, 5, (), True),
        (100, 4, (), False),  # p = 1/16: no win, and the rows are not few
        (100, 9, ("dying_relu",), True),
        (30, 4, (), True),
        (31, 4, (), False),
        (8, 4, (), True),
        (8, 4, ("dying_relu",), False),  # an error is left
        (8, 0, (), False),
        (8, -1, (), False),
    ],
)
def test_what_is_doubtful_is_repeated(rows: int, more: int, problems: tuple[str, ...], asks: bool) -> None:
    scores = Scores(rows)
    trial = scores.trial(rows // 2 + more, *problems, edits=EDITS)
    assert (scores.repetitions().next(trial) is not None) == asks
    assert scores.repetitions().next(scores.given) is None


@pytest.mark.parametrize(
    ("more", "verdict"), [(9, Verdict.HOLDS), (3, Verdict.HOLDS), (2, Verdict.REFUTED), (-5, Verdict.REFUTED)]
)
def test_a_gain_must_show_again(more: int, verdict: Verdict) -> None:
    scores = Scores(100)
    trial, repetitions = scores.trial(58, edits=EDITS), scores.repetitions()
    spec = repetitions.next(trial)
    assert spec == TrainingSpec(10, 1, EDITS)
    assert repetitions.take(trial, spec, scores.trial(50 + more)) is verdict
    assert repetitions.refuted(trial) == (verdict is Verdict.REFUTED)
    assert repetitions.next(trial) is None, "asked once"


def test_what_fails_with_another_seed_is_refuted_and_what_is_cut_short_tells_nothing() -> None:
    scores = Scores(100)
    trial = scores.trial(58, edits=EDITS)
    for again, verdict in ((None, Verdict.REFUTED), (replace(scores.trial(40), cut_short=True), Verdict.OPEN)):
        repetitions = scores.repetitions()
        spec = repetitions.next(trial)
        assert spec is not None
        assert repetitions.take(trial, spec, again) is verdict


def test_what_is_not_looked_at_again_stays_doubtful() -> None:
    scores = Scores(100)
    sure, trial = scores.trial(90, edits=EDITS), scores.trial(58, edits=EDITS)
    repetitions = scores.repetitions(0.5)
    assert repetitions.next(trial) is None
    assert [repetitions.doubtful(one) for one in (sure, trial, scores.given)] == [False, True, False]
    repetitions = scores.repetitions()
    spec = repetitions.next(trial)
    assert spec is not None
    repetitions.take(trial, spec, scores.trial(58))
    assert not repetitions.doubtful(trial)


def test_blocks_of_a_loss_are_not_few_rows() -> None:
    metric = LossMetric("loss", "min")
    trials = []
    for loss in (1.0, 0.999):
        judged = metric.with_blocks(
            metric.score(Evaluation(np.zeros((5000, 1)), np.zeros(5000), loss)), np.full(20, loss)
        )
        trials.append(Trial(TrainingSpec(10, 0), None, judged, (), CONTEXT, {}, 100, False, total=100))
    budget = Budget(math.inf)
    budget.measure(100)
    assert SeedRepeats(metric, trials[0], budget).next(trials[1]) is None


def _pairs(scores: Scores, trial: Trial, repetitions: SeedRepeats, gains: list[int]) -> list[tuple[int, bool]]:
    """Run what is asked for; the training as given has half of the rows right each time."""
    asked = []
    while (spec := repetitions.next(trial)) is not None:
        asked.append((spec.seed, bool(spec.edits)))
        right = len(scores.targets) // 2 + (gains[spec.seed - 1] if spec.edits else 0)
        verdict = repetitions.take(trial, spec, scores.trial(right, edits=spec.edits, seed=spec.seed))
    assert verdict is (Verdict.HOLDS if all(gain > 0 for gain in gains) else Verdict.REFUTED)
    return asked


@pytest.mark.parametrize("gains", [[3, 3, 3, 3, 3], [1, 3, 2], [3, 1, 1, 1], [3, 0], [3, 3, -1]])
def test_with_few_rows_pairs_must_all_tell_a_gain(gains: list[int]) -> None:
    """Equal gains go by their signs, others by a t test: 1, 3 and 2 have a mean of 3.5 errors, 3, 1 and 1 of 2.5."""
    scores = Scores(8)
    asked = _pairs(scores, scores.trial(8, edits=EDITS), scores.repetitions(), gains)
    assert asked == [(seed, repaired) for seed in range(1, len(gains) + 1) for repaired in (False, True)]


def test_pairs_of_the_training_as_given_serve_every_gain() -> None:
    scores = Scores(8)
    repetitions, trial = scores.repetitions(), scores.trial(8, edits=EDITS)
    _pairs(scores, trial, repetitions, [3, 3, 3, 3, 3])
    other = scores.trial(7, edits=(SetLearningRate(0.02),))
    assert _pairs(scores, other, repetitions, [2, 0]) == [(1, True), (2, True)], "the given ones are known"
    assert repetitions.refuted(other)
    assert not repetitions.refuted(trial)


def test_one_pair_will_do_where_each_row_is_answered_as_before() -> None:
    scores = Scores(8)
    assert _pairs(scores, scores.trial(8, edits=EDITS), scores.repetitions(), [4]) == [(1, False), (1, True)]


def test_rows_that_do_not_count_are_none() -> None:
    scores = Scores(40)
    trial = scores.trial(24, edits=EDITS)
    assert scores.repetitions().next(trial) is None
    for one in (trial, scores.given):
        assert one.judged is not None
        one.judged = replace(one.judged, weights=(np.arange(40) >= 15).astype(float))
    assert scores.repetitions().next(trial) is not None, "25 are few"


@pytest.mark.parametrize(
    ("rows", "right", "budget", "given_work", "asks"),
    [
        (100, 58, 1.0, 100, True),
        (100, 58, 0.9, 100, False),
        (8, 8, 6.0, 100, True),  # three pairs
        (8, 8, 5.9, 100, False),
        (8, 8, 3.9, 30, True),  # the training as given is stuck, and costs less
    ],
)
def test_nothing_is_begun_that_the_budget_can_not_end(
    rows: int, right: int, budget: float, given_work: int, asks: bool
) -> None:
    scores = Scores(rows)
    trial = scores.trial(right, edits=EDITS)
    assert (scores.repetitions(budget, given_work).next(trial) is not None) == asks
