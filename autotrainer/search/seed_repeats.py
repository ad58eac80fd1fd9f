"""Repeated seeds: whether a gain is more than the luck of one training among many, or of few validation rows.

A repetition varies the order of the rows, dropout and the weights of new layers; the model's initial weights stay. It
shows that there is a gain, not how large it is otherwise. Measured on 22 certain gains of benchmark cases, with four
further seeds and initial weights each: a gain in 88 of 88 pairs, smaller than the first one by 6 % in the mean, by 31 %
in the case where it shrinks most, and by two thirds in single pairs. Neither the spread of the last epochs' scores nor
the noise of the rows predicts by how much: it can only be measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import NormalDist
from typing import Literal

import numpy as np

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.scoring.metrics import Metric, RowMetric, Score
from autotrainer.scoring.significance import FEW_ROWS, significant
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["SeedRepeats", "Verdict"]

_LEVEL, _ATTEMPTS = 0.05, 50
"""Probability that of so many attempts without any effect one has a gain that counts as certain (Bonferroni 1936): a
gain is at 99.9 %, one-sided. Twice as many attempts halve the level of each. A less certain gain is re-evaluated with
another seed."""
_REPEATED = 1.0
"""Standard deviations of the noise that a gain must exceed with another seed. One in six gains that are luck of the
seed does so, and about three in four of the true gains that have just passed at 95 %. Luck of the rows is not
detected."""
_PAIRS, _MIN_PAIRS = 5, 3
"""Pairs of trainings with equal seeds, with and without the repair, that must all show a gain (one-sided sign test,
1/32); and the minimum number, if a paired t test over them is significant at 95 % already."""


class Verdict(StrEnum):
    """What repetitions show about a gain."""

    OPEN = "open"
    HOLDS = "holds"
    REFUTED = "refuted"


@dataclass
class _Gain:
    """A training's gain: ``sure`` or no gain, ``doubtful``, or one that too ``few`` rows can't tell from noise."""

    kind: Literal["sure", "doubtful", "few"]
    verdict: Verdict = Verdict.OPEN
    pairs: list[float] = field(default_factory=list)
    sigmas: float = 0.0


class SeedRepeats:
    """Decides which training to repeat with another seed, and what that shows about a gain. Deterministic.

    * A training that is better than the baseline by more than noise, but not certainly, must also be better with
      another seed. The baseline is not repeated for that: it was not chosen among many.
    * With few validation rows, no test of their scores may show a gain. A training that has no error left and some gain
      is better if the baseline, at its end, is no better than a constant prediction where the training is (on the rows
      that they were trained on, if the others are too few for that, too), or if its original loss is certainly lower on
      the validation rows (a paired t test); else if pairs with other seeds agree: five; fewer if their gains are very
      similar; one, if both trainings score each row as before.

    Args:
        metric: Compares scores.
        baseline: The baseline training.
        budget: Limits the work.
    """

    def __init__(self, metric: Metric, baseline: Trial, budget: Budget) -> None:
        self._metric, self._baseline, self._budget = metric, baseline, budget
        self._attempts = 0
        self._gains: dict[TrainingSpec, _Gain] = {}
        self._baseline_repeats: dict[int, Score | None] = {}

    def count(self) -> None:
        """Count an attempt that has a score."""
        self._attempts += 1

    def next(self, trial: Trial) -> TrainingSpec | None:
        """Return what to run next to learn more about a training's gain; None if nothing is open, or affordable."""
        gain, seed = self._gain_of(trial), trial.spec.seed
        if gain.kind == "sure" or gain.verdict is not Verdict.OPEN:
            return None
        if gain.kind == "doubtful":
            return replace(trial.spec, seed=seed + 1) if self._affords(trial, 1, 0) else None
        seed += len(gain.pairs) + 1
        pairs = max(1, _MIN_PAIRS - len(gain.pairs))
        repeated = min(pairs, sum(number >= seed for number in self._baseline_repeats))
        if not self._affords(trial, pairs, pairs - repeated):
            return None
        return replace((trial if seed in self._baseline_repeats else self._baseline).spec, seed=seed)

    def add(self, trial: Trial, spec: TrainingSpec, repeat: Trial | None) -> Verdict:
        """Record a training that was run to learn more about a gain.

        Args:
            trial: The training with the gain.
            spec: What `next` returned.
            repeat: Its outcome; None if it has failed.

        Returns:
            The verdict on the gain. A repetition that the budget has cut short shows nothing.
        """
        gain, new, baseline = self._gain_of(trial), None if repeat is None else repeat.score, self._baseline.score
        if repeat is not None and repeat.cut_short:
            return Verdict.OPEN
        if gain.kind == "doubtful":
            holds = new is not None and baseline is not None and self._metric.better(new, baseline, _REPEATED)
            gain.verdict = Verdict.HOLDS if holds else Verdict.REFUTED
        elif spec.edits == self._baseline.spec.edits:
            self._baseline_repeats[spec.seed] = new
        else:
            paired = self._baseline_repeats[spec.seed]
            if new is None or not (paired is None or self._metric.gain(new, paired) > 0):
                gain.verdict = Verdict.REFUTED
            else:
                gain.pairs.append(math.inf if paired is None else self._metric.gain(new, paired))
                same = _same_rows(new, trial.score) and _same_rows(paired, baseline)
                proven = len(gain.pairs) >= _MIN_PAIRS and significant(np.array(gain.pairs))
                gain.verdict = Verdict.HOLDS if same or proven or len(gain.pairs) == _PAIRS else Verdict.OPEN
        return gain.verdict

    def refuted(self, trial: Trial) -> bool:
        """Return whether the gain of a training is refuted."""
        return self._gain_of(trial).verdict is Verdict.REFUTED

    def holds(self, trial: Trial) -> bool:
        """Return whether repetitions have shown that the gain of a training holds."""
        return self._gain_of(trial).verdict is Verdict.HOLDS

    def doubtful(self, trial: Trial) -> bool:
        """Return whether the gain of a training is not certain and has not been re-evaluated."""
        gain = self._gain_of(trial)
        return gain.kind == "doubtful" and gain.verdict is Verdict.OPEN

    def _affords(self, trial: Trial, attempts: int, baselines: int) -> bool:
        """Return whether the budget allows so many trainings like one, and so many like the baseline."""
        work = attempts * trial.total + baselines * self._baseline.total
        return self._budget.left >= self._budget.in_trainings(work)

    def _gain_of(self, trial: Trial) -> _Gain:
        among = _ATTEMPTS
        while among < self._attempts:
            among *= 2
        sigmas, gain = NormalDist().inv_cdf(1 - _LEVEL / among), self._gains.get(trial.spec)
        if gain is None or (gain.kind == "sure" and gain.sigmas < sigmas):
            gain = self._gains[trial.spec] = _Gain(self._kind(trial, sigmas), sigmas=sigmas)
            learns = not (self._baseline.above_trivial or self._baseline.halted)
            if gain.kind == "few" and (learns or self._loses_less(trial, sigmas)):
                gain.verdict = Verdict.HOLDS
        return gain

    def _loses_less(self, trial: Trial, sigmas: float) -> bool:
        """Return whether the original loss is lower than that of the baseline by more than the noise of the rows."""
        new, old = (None if t.score is None else t.score.losses for t in (trial, self._baseline))
        return new is not None and old is not None and significant(old - new, sigmas)

    def _kind(self, trial: Trial, sigmas: float) -> Literal["sure", "doubtful", "few"]:
        new, baseline = trial.score, self._baseline.score
        if trial.spec == self._baseline.spec or new is None or baseline is None:
            return "sure"
        if self._metric.better(new, baseline):
            return "sure" if self._metric.better(new, baseline, sigmas) else "doubtful"
        if not isinstance(self._metric, RowMetric) or new.rows is None or not trial.clean:
            return "sure"
        rows = len(new.rows) if new.weights is None else int((new.weights > 0).sum())
        gains = self._metric.gain(new, baseline) > 0 and new.nonfinite <= baseline.nonfinite
        return "few" if gains and rows <= FEW_ROWS else "sure"


def _same_rows(new: Score | None, old: Score | None) -> bool:
    if new is None or old is None or new.rows is None or old.rows is None:
        return False
    return bool(np.array_equal(new.rows, old.rows, equal_nan=True))
