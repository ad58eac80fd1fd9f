"""How far the original training runs: to its end, unless its cause is known and a repaired training is ahead of it.

Once an error with high confidence names a cause that a repair answers, the original is paused (`KnownCause`), and the
repaired training runs first; the work of a whole training is held back meanwhile. Then, before anything else is tried,
the original is trained from its start again, and given up only where it is expected to stay behind:

* before its first step, if the repaired training has no error left, is better than the paused original by more than
  noise, and no training can be better than it: a perfect accuracy would not be by more than noise, or its R² is 0.99
  or more (`is_at_ceiling`);
* after a fiftieth, a sixteenth, an eighth, a quarter and half of its epochs, if the repaired training is ahead at equal
  work, which is the same number of training samples (`Race`). It was then better on the same validation rows, its final
  score is better, and either it was then clearly better than a constant prediction and the original was not; or the
  original would not reach its final score even with as much gain from each further sample, plus noise, as since the
  checkpoint before;
* where it is stuck, as any training.

If in doubt, it runs to its end, and is compared there as always. "By more than noise" is one-sided at 99.9 % on paired
validation rows; for the perfect score it is 95 %, which is the stricter one there. So the result is never worse than
the original at its end by more than noise, unless that learns faster later than before, and then overtakes a training
in which the cause is repaired.

Each further attempt is likewise compared with the best training so far, from a quarter of its epochs on, and given up
if it is clearly behind at equal work and would not catch up with as much gain from each further sample (`Hopeless`).
Without a score for each row, nothing is compared on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autotrainer.records.findings import Finding, Severity, rank_findings
from autotrainer.records.signals import Floats
from autotrainer.scoring.metrics import Metric, RowMetric, Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.scoring.significance import SIGMAS, row_gains
from autotrainer.search.planner import Planner
from autotrainer.training.base_run import BaseRun
from autotrainer.training.budget import Budget
from autotrainer.training.run import ManagedRun
from autotrainer.training.trial import Trial

__all__ = ["Hopeless", "KnownCause", "Race", "is_ahead", "is_at_ceiling", "is_hopeless", "race_epochs", "with_errors"]

_FIRST, _LAST = 0.02, 1 / 3
"""Shares of the planned work at which findings are first and last asked for a known cause; at doublings in between."""
_CONFIDENCE, _PROVEN_CONFIDENCE = 0.9, 0.8
"""Confidence that one of the errors must have; the second, where the evidence proves a safe repair of it."""
_SURE = 3.09
"""One-sided 99.9 %, as a quantile of the normal distribution."""
_NEEDED = 2.0
"""Work that has to be left, in baseline trainings: for the repaired training, and for the original if in doubt."""
_HOPELESS = 0.25
"""Share of an attempt after which it can be given up."""
_PARTS = (50, 16, 8, 4, 2)
_FULL_R2 = 0.99
"""R² that counts as perfect: 1 itself is out of reach, and any difference from it exceeds the noise of the rows."""


def race_epochs(epochs: int) -> frozenset[int]:
    """Return the numbers of epochs after which trainings are compared at equal work."""
    return frozenset(math.ceil(epochs / part) for part in _PARTS)


class KnownCause:
    """Halts the original training once its findings name a cause with high confidence, and there is a repair of it.

    A safe repair that the evidence proves halts it at once; else the same error must still be the first one when the
    findings are asked again, after twice the work.

    Args:
        planner: Makes steps from findings.
        scorer: Has the summary of the targets.
        budget: Has to allow both the repaired training and, if in doubt, the original.
    """

    def __init__(self, planner: Planner, scorer: Scorer, budget: Budget) -> None:
        self._planner, self._scorer, self._budget = planner, scorer, budget
        self._next = _FIRST
        self._cause = ""

    def __call__(self, run: BaseRun) -> bool:
        """Return whether to halt the training."""
        unit = self._budget.unit
        if unit is None or run.total < self._next * unit:
            return False
        share = run.total / unit
        self._next = 2 * share
        if share > _LAST or not self._budget.covers(_NEEDED):
            self._next = math.inf
            return False
        findings = run.monitor.findings
        errors = [f for f in findings if f.severity is Severity.ERROR and f.confidence >= _PROVEN_CONFIDENCE]
        sure = [f.problem for f in errors if f.confidence >= _CONFIDENCE]
        cause, self._cause = self._cause, sure[0] if sure else ""
        evidence = findings, run.monitor.context, self._scorer.targets
        proven = self._planner.proven(*evidence) if errors else None
        if proven is not None and any(f.problem in proven.problems for f in errors):
            return True
        if not sure:
            return False
        steps = self._planner.steps(*evidence) if cause == self._cause else []
        return bool(steps) and self._budget.covers(_NEEDED - 1 + steps[0].cost)


class Hopeless:
    """Halts an attempt at the first checkpoint where it is certain to stay behind the best training.

    Args:
        best: The best training.
        scorer: Compares scores.
    """

    def __init__(self, best: Trial, scorer: Scorer) -> None:
        self._best, self._scorer = best, scorer
        self._before: tuple[int, Score] | None = None

    def __call__(self, run: BaseRun) -> bool:
        """Return whether to halt the training."""
        score = _score_here(run)
        before = self._before
        if score is None or (before is not None and run.samples <= before[0]):
            return False
        self._before = now = run.samples, score
        samples = (run.context.train_rows or 0) * (run.context.planned_epochs or 0)
        return is_hopeless(self._best, now, before, samples, self._scorer.metric)


class Race:
    """Halts the original training, which goes on, at the first checkpoint where a repaired training is ahead of it.

    Args:
        attempt: The repaired training, which has ended.
        paused: The original training where it was paused.
        scorer: Compares scores.
    """

    def __init__(self, attempt: Trial, paused: Trial, scorer: Scorer) -> None:
        self._attempt, self._paused, self._scorer = attempt, paused, scorer
        self._samples = (paused.context.train_rows or 0) * paused.spec.epochs
        self._before: tuple[int, Score] | None = None

    def __call__(self, run: BaseRun) -> bool:
        """Return whether to halt the training."""
        score = _score_here(run)
        return score is not None and self._is_ahead(run.samples, score)

    @property
    def won(self) -> bool:
        """Whether the original was behind at a checkpoint before it was paused."""
        return any(
            self._is_ahead(samples, score)
            for samples, score in sorted(self._paused.scores.items(), key=lambda entry: entry[0])
        )

    def _is_ahead(self, samples: int, score: Score) -> bool:
        before = self._before
        if before is not None and samples <= before[0]:
            return False
        self._before = samples, score
        if samples <= self._paused.samples and self._scorer.above_trivial(self._paused.score):
            return False  # it has learned something since
        return is_ahead(self._attempt, self._before, before, self._samples, self._scorer)


def is_ahead(
    attempt: Trial, now: tuple[int, Score], before: tuple[int, Score] | None, samples: int, scorer: Scorer
) -> bool:
    """Return whether a repaired training is ahead of the original at equal work, and certain to stay ahead; see above.

    Args:
        attempt: The repaired training, which has ended.
        now: Training samples of the original so far, and its score there.
        before: The same at an earlier point, or None.
        samples: Training samples of the whole original training, or 0 if unknown.
        scorer: Compares scores.
    """
    equal = _score_at(attempt, now[0])
    if equal is None or not _leads(attempt, equal, now[1], scorer.metric):
        return False
    if not scorer.judge(now[1]).better:
        return scorer.judge(equal).better
    return _stays_behind(now, before, samples, attempt, scorer.metric)


def is_hopeless(
    best: Trial, now: tuple[int, Score], before: tuple[int, Score] | None, samples: int, metric: Metric | None
) -> bool:
    """Return whether an attempt is clearly worse than the best training at equal work, and can't catch up.

    Args:
        best: The best training.
        now: Training samples of the attempt so far, and its score there.
        before: The same at an earlier point, or None.
        samples: Training samples of the whole attempt.
        metric: Compares scores.
    """
    equal = _score_at(best, now[0])
    if equal is None or now[0] < _HOPELESS * samples or not _leads(best, equal, now[1], metric):
        return False
    return _stays_behind(now, before, samples, best, metric)


def _score_here(run: BaseRun) -> Score | None:
    """Return the score of the checkpoint that a training has just reached; None between checkpoints."""
    return run.scores.get(run.samples) if isinstance(run, ManagedRun) else None


def _score_at(trial: Trial, samples: int) -> Score | None:
    """Return the score at the last checkpoint with no more training samples."""
    return trial.scores.get(max((reached for reached in trial.scores if reached <= samples), default=0))


def _leads(leader: Trial, equal: Score, score: Score, metric: Metric | None) -> bool:
    if metric is None or leader.score is None or leader.cut_short:
        return False
    return metric.better(equal, score, _SURE) and metric.better(leader.score, score, _SURE)


def _stays_behind(
    now: tuple[int, Score], before: tuple[int, Score] | None, samples: int, leader: Trial, metric: Metric | None
) -> bool:
    """Return whether a training won't reach the leader's final score, with as much gain from each sample to come."""
    done, score = now
    if before is None or samples < done or leader.score is None or not isinstance(metric, RowMetric):
        return False
    gains = _gains(score, before[1])
    rate = gains.mean() + SIGMAS * gains.std() / math.sqrt(max(1, len(gains)))
    times = (samples - done) / (done - before[0])
    return float(_gains(leader.score, score).mean()) > max(0.0, float(rate)) * times


def is_at_ceiling(attempt: Trial, baseline: Trial, metric: Metric | None) -> bool:
    """Return whether a repaired training is better than the paused original, and no training can be better than it."""
    new, old = attempt.score, baseline.score
    if (
        metric is None
        or metric.name not in ("accuracy", "balanced_accuracy", "r2")
        or not isinstance(metric, RowMetric)
    ):
        return False
    if new is None or old is None or new.rows is None or not attempt.clean or attempt.cut_short:
        return False
    ceiling = replace(new, value=1.0, rows=np.ones(len(new.rows)))
    at_ceiling = new.value >= _FULL_R2 if metric.name == "r2" else not metric.better(ceiling, new)
    return metric.better(new, old, _SURE) and at_ceiling


def with_errors(baseline: Trial, earlier: Sequence[Finding]) -> Trial:
    """Return the original training, halted, with the errors for which it was paused in place of weaker findings."""
    errors = {f.problem for f in baseline.errors}
    proof = [f for f in earlier if f.severity is Severity.ERROR and f.problem not in errors]
    replaced = {f.problem for f in proof}
    kept = (f for f in baseline.findings if f.problem not in replaced)
    return replace(baseline, findings=tuple(rank_findings((*proof, *kept))))


def _gains(new: Score, old: Score) -> Floats:
    """Return the gains of rows; infinity if they can't be compared."""
    if new.rows is None or old.rows is None or new.rows.shape != old.rows.shape:
        return np.array([math.inf])
    weights = np.ones(len(new.rows)) if new.weights is None else new.weights
    return row_gains(new.rows, old.rows, weights)
