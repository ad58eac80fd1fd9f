"""Seed repeats: which training is repeated with another seed, and what that shows about a gain."""

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
    """Trials that predict the first rows of a validation set correctly."""

    def __init__(self, rows: int) -> None:
        self.targets = np.tile([0, 1], (rows + 1) // 2)[:rows]
        self._scorer = Scorer(MetricSelection("accuracy"), CONTEXT, ArrayData(np.zeros((rows, 1)), self.targets))
        self.baseline = self.trial(rows // 2)

    def trial(self, right: int, *problems: str, edits: tuple[SetLearningRate, ...] = (), seed: int = 0) -> Trial:
        outputs = np.where(np.arange(len(self.targets)) < right, self.targets, 1 - self.targets)
        score = self._scorer.score(Evaluation(outputs, self.targets, 0.0))
        findings = tuple(Finding(p, "AT000", Severity.ERROR, 1.0, p) for p in problems)
        spec = TrainingSpec(10, seed, edits)
        return Trial(spec, None, score, findings, CONTEXT, {}, 100, False, total=100)

    @property
    def metric(self) -> Metric:
        assert self._scorer.metric is not None
        return self._scorer.metric

    def repeats(self, budget: float = math.inf, baseline_work: int = 100) -> SeedRepeats:
        limit = Budget(budget)
        limit.measure(100)
        self.baseline.total = baseline_work
        return SeedRepeats(self.metric, self.baseline, limit)


@pytest.mark.parametrize(
    ("rows", "more", "problems", "repeated"),
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
def test_doubtful_gain_is_repeated(rows: int, more: int, problems: tuple[str, ...], repeated: bool) -> None:
    scores = Scores(rows)
    trial = scores.trial(rows // 2 + more, *problems, edits=EDITS)
    assert (scores.repeats().next(trial) is not None) == repeated
    assert scores.repeats().next(scores.baseline) is None


@pytest.mark.parametrize(
    ("rows", "learns", "halted", "certain"),
    [
        (8, True, False, True),
        (8, True, True, False),  # how a paused baseline would have ended is unknown
        (8, False, False, False),
        (40, True, False, False),  # so many rows would show a gain
    ],
)
def test_baseline_at_chance_needs_no_repetition_on_few_rows(
    rows: int, learns: bool, halted: bool, certain: bool
) -> None:
    scores = Scores(rows)
    scores.baseline = replace(scores.baseline, above_trivial=not learns, halted=halted)
    trial = scores.trial(rows // 2 + 3, edits=EDITS)
    assert scores.repeats().holds(trial) == certain
    assert not scores.repeats().holds(scores.trial(rows // 2, edits=EDITS))  # no gain
    assert not scores.repeats().holds(scores.trial(rows // 2 + 3, "dying_relu", edits=EDITS))


@pytest.mark.parametrize(
    ("gains", "certain"),
    [
        (np.array([0.5, 0.6, 0.4, 0.55, 0.5, 0.45, 0.6, 0.5]), True),
        (np.array([0.9, 0.1, -0.2, 0.8, 1.5, -0.1, 0.3, 0.5]), False),
        (np.array([9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), False),  # one row
        (np.array([np.nan] * 8), False),
    ],
)
def test_lower_loss_of_each_row_needs_no_repetition(gains: np.ndarray, certain: bool) -> None:
    scores = Scores(8)
    trial = scores.trial(6, edits=EDITS)
    for of, losses in ((scores.baseline, np.full(8, 0.7)), (trial, 0.7 - gains)):
        assert of.score is not None
        of.score = replace(of.score, losses=losses)
    repeats = scores.repeats()
    assert repeats.holds(trial) == certain
    assert (repeats.next(trial) is None) == certain


@pytest.mark.parametrize(
    ("more", "verdict"), [(9, Verdict.HOLDS), (3, Verdict.HOLDS), (2, Verdict.REFUTED), (-5, Verdict.REFUTED)]
)
def test_gain_must_hold_with_another_seed(more: int, verdict: Verdict) -> None:
    scores = Scores(100)
    trial, repeats = scores.trial(58, edits=EDITS), scores.repeats()
    spec = repeats.next(trial)
    assert spec == TrainingSpec(10, 1, EDITS)
    assert repeats.add(trial, spec, scores.trial(50 + more)) is verdict
    assert repeats.refuted(trial) == (verdict is Verdict.REFUTED)
    assert repeats.next(trial) is None, "repeated once"


def test_failed_repeat_refutes_and_cut_short_repeat_shows_nothing() -> None:
    scores = Scores(100)
    trial = scores.trial(58, edits=EDITS)
    for repeat, verdict in ((None, Verdict.REFUTED), (replace(scores.trial(40), cut_short=True), Verdict.OPEN)):
        repeats = scores.repeats()
        spec = repeats.next(trial)
        assert spec is not None
        assert repeats.add(trial, spec, repeat) is verdict


def test_gain_without_repeat_stays_doubtful() -> None:
    scores = Scores(100)
    sure, trial = scores.trial(90, edits=(SetLearningRate(0.02),)), scores.trial(58, edits=EDITS)
    repeats = scores.repeats(0.5)
    assert repeats.next(trial) is None
    assert [repeats.doubtful(one) for one in (sure, trial, scores.baseline)] == [False, True, False]
    repeats = scores.repeats()
    spec = repeats.next(trial)
    assert spec is not None
    repeats.add(trial, spec, scores.trial(58))
    assert not repeats.doubtful(trial)


def test_blocks_of_a_loss_do_not_count_as_few_rows() -> None:
    metric = LossMetric("loss", "min")
    trials = []
    for edits, loss in (((), 1.0), (EDITS, 0.999)):
        score = metric.with_blocks(
            metric.score(Evaluation(np.zeros((5000, 1)), np.zeros(5000), loss)), np.full(20, loss)
        )
        trials.append(Trial(TrainingSpec(10, 0, edits), None, score, (), CONTEXT, {}, 100, False, total=100))
    budget = Budget(math.inf)
    budget.measure(100)
    assert SeedRepeats(metric, trials[0], budget).next(trials[1]) is None


def _pairs(scores: Scores, trial: Trial, repeats: SeedRepeats, gains: list[int]) -> list[tuple[int, bool]]:
    """Run all repeats; the baseline predicts half of the rows correctly each time."""
    specs = []
    while (spec := repeats.next(trial)) is not None:
        specs.append((spec.seed, bool(spec.edits)))
        right = len(scores.targets) // 2 + (gains[spec.seed - 1] if spec.edits else 0)
        verdict = repeats.add(trial, spec, scores.trial(right, edits=spec.edits, seed=spec.seed))
    assert verdict is (Verdict.HOLDS if all(gain > 0 for gain in gains) else Verdict.REFUTED)
    return specs


@pytest.mark.parametrize("gains", [[3, 3, 3, 3, 3], [1, 3, 2], [3, 1, 1, 1], [3, 0], [3, 3, -1]])
def test_all_pairs_must_gain_with_few_rows(gains: list[int]) -> None:
    """A sign test for equal gains, else a t test: the mean of 1, 3, 2 is 3.5 standard errors, of 3, 1, 1 it is 2.5."""
    scores = Scores(8)
    specs = _pairs(scores, scores.trial(8, edits=EDITS), scores.repeats(), gains)
    assert specs == [(seed, repaired) for seed in range(1, len(gains) + 1) for repaired in (False, True)]


def test_baseline_repeats_are_shared_between_gains() -> None:
    scores = Scores(8)
    repeats, trial = scores.repeats(), scores.trial(8, edits=EDITS)
    _pairs(scores, trial, repeats, [3, 3, 3, 3, 3])
    other = scores.trial(7, edits=(SetLearningRate(0.02),))
    assert _pairs(scores, other, repeats, [2, 0]) == [(1, True), (2, True)], "the baseline is not repeated again"
    assert repeats.refuted(other)
    assert not repeats.refuted(trial)


def test_one_pair_suffices_if_row_scores_are_unchanged() -> None:
    scores = Scores(8)
    assert _pairs(scores, scores.trial(8, edits=EDITS), scores.repeats(), [4]) == [(1, False), (1, True)]


def test_rows_without_weight_do_not_count() -> None:
    scores = Scores(40)
    trial = scores.trial(24, edits=EDITS)
    assert scores.repeats().next(trial) is None
    for one in (trial, scores.baseline):
        assert one.score is not None
        one.score = replace(one.score, weights=(np.arange(40) >= 15).astype(float))
    assert scores.repeats().next(trial) is not None, "25 are few"


@pytest.mark.parametrize(
    ("rows", "right", "budget", "baseline_work", "repeated"),
    [
        (100, 58, 1.0, 100, True),
        (100, 58, 0.9, 100, False),
        (8, 8, 6.0, 100, True),  # three pairs
        (8, 8, 5.9, 100, False),
        (8, 8, 3.9, 30, True),  # the baseline is stuck, and costs less
    ],
)
def test_repeats_must_fit_into_the_budget(
    rows: int, right: int, budget: float, baseline_work: int, repeated: bool
) -> None:
    scores = Scores(rows)
    trial = scores.trial(right, edits=EDITS)
    assert (scores.repeats(budget, baseline_work).next(trial) is not None) == repeated


def test_more_attempts_need_more_certain_gains() -> None:
    """Ten more rows right: p = 1/1024, enough among 50 attempts, but not among 100."""
    scores = Scores(100)
    trial, repeats = scores.trial(60, edits=EDITS), scores.repeats()
    for _ in range(50):
        repeats.count()
    assert repeats.next(trial) is None
    repeats.count()
    assert repeats.next(trial) is not None
    assert repeats.next(scores.trial(75, edits=(SetLearningRate(0.02),))) is None
