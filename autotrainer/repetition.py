"""Repeated seeds: whether a gain is more than the luck of one training among many, or of few validation rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from autotrainer.budget import Budget
from autotrainer.exchange import TrainingSpec
from autotrainer.metrics import Judged, Metric
from autotrainer.trials import Trial

__all__ = ["Repetitions", "Verdict"]

_SURE = 3.09
"""One-sided 99.9 %: a gain that is less sure is looked at again. With that level fifty attempts without any effect have
one such gain in 5 % of the cases (Bonferroni 1936)."""
_AGAIN = 0.68
"""Standard deviations of the noise that a gain must exceed with another seed: with one that has just passed at 95 %,
both together are as sure (Stouffer et al. 1949, The American Soldier 1: sum of the two, divided by √2)."""
_FEW = 30
"""Validation rows up to which a gain may be real that no test on these rows shows."""
_PAIRS = 5
"""Pairs of trainings, equal but for what was repaired, that must all tell a gain: one-sided sign test, 1/32."""


class Verdict(StrEnum):
    """What repetitions tell of a gain."""

    OPEN = "open"
    HOLDS = "holds"
    REFUTED = "refuted"


@dataclass
class _Seen:
    verdict: Verdict = Verdict.OPEN
    pairs: int = 0


class Repetitions:
    """Says which training to run with another seed, and what that tells of a gain. Deterministic.

    * A training that is better than the one as given by more than noise, but not by so much that it is sure, must be
      better with another seed too, so that both together are more than noise. The training as given is not repeated for
      that: nobody has chosen it among many.
    * Where validation rows are few, no test on them may show a gain. A training that has no error left and some gain is
      then better if five pairs with seeds of their own say so.

    Args:
        metric: Compares.
        given: The training as given.
        budget: What may be done.
    """

    def __init__(self, metric: Metric, given: Trial, budget: Budget) -> None:
        self._metric, self._given, self._budget = metric, given, budget
        self._seen: list[tuple[Trial, _Seen]] = []
        self._given_again: dict[int, Judged | None] = {}

    def next(self, trial: Trial) -> TrainingSpec | None:
        """Return what to run next to learn more of a training's gain; None if nothing is to be learned, or afforded."""
        new, given, seen = trial.judged, self._given.judged, self._of(trial)
        if trial is self._given or new is None or given is None or seen.verdict is not Verdict.OPEN:
            return None
        if self._metric.better(new, given):
            doubtful = not self._metric.better(new, given, _SURE)
            again = replace(trial.spec, seed=trial.spec.seed + 1)
            return again if doubtful and self._affords(trial, 1, 0) else None
        few = new.rows is not None and len(new.rows) <= _FEW
        if not few or not trial.clean or new.nonfinite > given.nonfinite or not self._metric.gain(new, given) > 0:
            return None
        seed = trial.spec.seed + seen.pairs + 1
        known = sum(s >= seed for s in self._given_again)
        pairs = _PAIRS - seen.pairs
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
            What is known of the gain. A repetition that the budget has cut short tells nothing against it.
        """
        seen, new, given = self._of(trial), None if again is None else again.judged, self._given.judged
        won = trial.judged is not None and given is not None and self._metric.better(trial.judged, given)
        if again is not None and again.cut_short:
            seen.verdict = Verdict.HOLDS if won else Verdict.OPEN
        elif won:
            holds = new is not None and given is not None and self._metric.better(new, given, _AGAIN)
            seen.verdict = Verdict.HOLDS if holds else Verdict.REFUTED
        elif spec.edits == self._given.spec.edits:
            self._given_again[spec.seed] = new
        elif new is None or not self._gains(new, self._given_again[spec.seed]):
            seen.verdict = Verdict.REFUTED
        else:
            seen.pairs += 1
            seen.verdict = Verdict.HOLDS if seen.pairs == _PAIRS else Verdict.OPEN
        return seen.verdict

    def refuted(self, trial: Trial) -> bool:
        """Say whether the gain of a training is refuted."""
        return self._of(trial).verdict is Verdict.REFUTED

    def _gains(self, new: Judged, old: Judged | None) -> bool:
        return old is None or self._metric.gain(new, old) > 0

    def _affords(self, trial: Trial, attempts: int, given: int) -> bool:
        """Say whether the budget allows so many trainings like one, and so many like the one as given."""
        whole = trial.spec.epochs / self._given.spec.epochs
        return self._budget.left >= attempts * whole + given * self._budget.in_trainings(self._given.work)

    def _of(self, trial: Trial) -> _Seen:
        found = next((seen for known, seen in self._seen if known is trial), None)
        if found is None:
            found = _Seen()
            self._seen.append((trial, found))
        return found
