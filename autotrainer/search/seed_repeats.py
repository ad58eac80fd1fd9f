"""Repeated seeds: whether a gain is more than the luck of one training among many, or of few validation rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import numpy as np

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.scoring.metrics import Metric, RowMetric, Score
from autotrainer.scoring.significance import significant
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["SeedRepeats", "Verdict"]

_SURE = 3.09
"""One-sided 99.9 %: a gain that is less sure is looked at again. With that level fifty attempts without any effect have
one such gain in 5 % of the cases (Bonferroni 1936)."""
_AGAIN = 1.0
"""Standard deviations of the noise that a gain must exceed with another seed. One in six of the gains that are luck of
the seed does so, and of true ones that have just passed at 95 % about three in four. Luck of the rows stays."""
_FEW = 30
"""Validation rows up to which a gain may be real that no test on these rows shows."""
_PAIRS, _LEAST_PAIRS = 5, 3
"""Pairs of trainings, equal but for what was repaired, that must all tell a gain: one-sided sign test, 1/32; and at
least, where a paired t test over them tells it at 95 % already."""


class Verdict(StrEnum):
    """What repetitions tell of a gain."""

    OPEN = "open"
    HOLDS = "holds"
    REFUTED = "refuted"


@dataclass
class _Gain:
    """A training's gain: ``sure`` or none at all, ``doubtful``, or one that too ``few`` rows can't tell from noise."""

    kind: Literal["sure", "doubtful", "few"]
    verdict: Verdict = Verdict.OPEN
    pairs: list[float] = field(default_factory=list)


class SeedRepeats:
    """Says which training to run with another seed, and what that tells of a gain. Deterministic.

    * A training that is better than the one as given by more than noise, but not by so much that it is sure, must be
      better with another seed too. The training as given is not repeated for that: nobody has chosen it among many.
    * Where validation rows are few, no test on them may show a gain. A training that has no error left and some gain is
      then better if pairs with seeds of their own say so: five, or less where their gains are much alike; one, where
      both answer each row as they did before.

    Args:
        metric: Compares.
        given: The training as given.
        budget: What may be done.
    """

    def __init__(self, metric: Metric, given: Trial, budget: Budget) -> None:
        self._metric, self._given, self._budget = metric, given, budget
        self._gains: list[tuple[Trial, _Gain]] = []
        self._given_again: dict[int, Score | None] = {}

    def next(self, trial: Trial) -> TrainingSpec | None:
        """Return what to run next to learn more of a training's gain; None if nothing is to be learned, or afforded."""
        gain, seed = self._of(trial), trial.spec.seed
        if gain.kind == "sure" or gain.verdict is not Verdict.OPEN:
            return None
        if gain.kind == "doubtful":
            return replace(trial.spec, seed=seed + 1) if self._affords(trial, 1, 0) else None
        seed += len(gain.pairs) + 1
        pairs = max(1, _LEAST_PAIRS - len(gain.pairs))
        known = min(pairs, sum(number >= seed for number in self._given_again))
        if not self._affords(trial, pairs, pairs - known):
            return None
        return replace((trial if seed in self._given_again else self._given).spec, seed=seed)

    def take(self, trial: Trial, spec: TrainingSpec, again: Trial | None) -> Verdict:
        """Take in a training that was run to learn more of a gain.

        Args:
            trial: The training with the gain.
            spec: What `next` returned.
            again: What came of it; None if it has failed.

        Returns:
            What is known of the gain. A repetition that the budget has cut short tells nothing.
        """
        gain, new, given = self._of(trial), None if again is None else again.judged, self._given.judged
        if again is not None and again.cut_short:
            return Verdict.OPEN
        if gain.kind == "doubtful":
            holds = new is not None and given is not None and self._metric.better(new, given, _AGAIN)
            gain.verdict = Verdict.HOLDS if holds else Verdict.REFUTED
        elif spec.edits == self._given.spec.edits:
            self._given_again[spec.seed] = new
        else:
            other = self._given_again[spec.seed]
            if new is None or not (other is None or self._metric.gain(new, other) > 0):
                gain.verdict = Verdict.REFUTED
            else:
                gain.pairs.append(math.inf if other is None else self._metric.gain(new, other))
                same = _same(new, trial.judged) and _same(other, given)
                told = len(gain.pairs) >= _LEAST_PAIRS and significant(np.array(gain.pairs))
                gain.verdict = Verdict.HOLDS if same or told or len(gain.pairs) == _PAIRS else Verdict.OPEN
        return gain.verdict

    def refuted(self, trial: Trial) -> bool:
        """Say whether the gain of a training is refuted."""
        return self._of(trial).verdict is Verdict.REFUTED

    def doubtful(self, trial: Trial) -> bool:
        """Say whether the gain of a training is not sure, and was not looked at again."""
        gain = self._of(trial)
        return gain.kind == "doubtful" and gain.verdict is Verdict.OPEN

    def _affords(self, trial: Trial, attempts: int, given: int) -> bool:
        """Say whether the budget allows so many trainings like one, and so many like the one as given."""
        work = attempts * trial.total + given * self._given.total
        return self._budget.left >= self._budget.in_trainings(work)

    def _of(self, trial: Trial) -> _Gain:
        found = next((gain for known, gain in self._gains if known is trial), None)
        if found is None:
            found = _Gain(self._kind(trial))
            self._gains.append((trial, found))
        return found

    def _kind(self, trial: Trial) -> Literal["sure", "doubtful", "few"]:
        new, given = trial.judged, self._given.judged
        if trial is self._given or new is None or given is None:
            return "sure"
        if self._metric.better(new, given):
            return "sure" if self._metric.better(new, given, _SURE) else "doubtful"
        if not isinstance(self._metric, RowMetric) or new.rows is None or not trial.clean:
            return "sure"
        rows = len(new.rows) if new.weights is None else int((new.weights > 0).sum())
        some = self._metric.gain(new, given) > 0 and new.nonfinite <= given.nonfinite
        return "few" if some and rows <= _FEW else "sure"


def _same(new: Score | None, old: Score | None) -> bool:
    """Say whether each row has the same score."""
    if new is None or old is None or new.rows is None or old.rows is None:
        return False
    return bool(np.array_equal(new.rows, old.rows, equal_nan=True))
