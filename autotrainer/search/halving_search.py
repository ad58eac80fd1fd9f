"""A search of settings by successive halving: many short trainings, the best of them longer, one to the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from autotrainer.repair import Dimension
from autotrainer.scoring.metrics import Metric
from autotrainer.search.brackets import Bracket, rungs, width_within
from autotrainer.search.candidate import Candidate, Node
from autotrainer.search.planner import Step
from autotrainer.search.samplers import SampledSettings, edits_of, make_sampler
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["HalvingSearch"]

_LISTED = 3
"""Attempts by evidence that take part in each halving."""
_DRAWS = 50
"""Draws for one halving at most: most of a small space may have been tried."""
_HOPELESS = 20
"""Trainings that came to nothing one after the other, before the search ends: two halvings of nine."""


class HalvingSearch:
    """Chooses the next training of a successive halving, which begins anew where one has ended. Deterministic.

    Each halving begins with some steps by evidence, and settings that are suggested without.

    Args:
        dimensions: Settings to be searched; without any there is no halving.
        metric: Compares.
        baseline: The training as given.
        budget: What may be done.
        resumable: Whether a training can go on where it was paused.
    """

    def __init__(
        self, dimensions: Sequence[Dimension], metric: Metric, baseline: Trial, budget: Budget, *, resumable: bool
    ) -> None:
        self._dimensions, self._sign, self._budget, self._resumable = dimensions, metric.sign, budget, resumable
        self._rungs = rungs(baseline.spec.epochs, baseline.context.planned_steps)
        self._suggester = make_sampler(dimensions, baseline.spec.seed) if dimensions else None
        self._bracket: Bracket[Candidate] | None = None
        self._short: dict[Candidate, Trial] = {}
        self._dead = 0

    def next(
        self,
        listed: Callable[[], Candidate | None],
        take: Callable[[Node, Step], Candidate | None],
        bases: Sequence[Node],
    ) -> Candidate | None:
        """Return what to try next, or None where nothing is left or fits into the budget.

        Args:
            listed: Returns the next step by evidence, or None.
            take: Returns a step on top of a training, or None where that was tried.
            bases: Trainings that settings are tried on top of, in turn.
        """
        found = None if self._bracket is None else self._bracket.next()
        if found is None:
            width = width_within(self._budget.left, self._rungs, resumable=self._resumable)
            entries = self._entries(width, listed, take, bases)
            self._bracket = Bracket(entries, self._rungs, lambda score: self._sign * score)
            found = self._bracket.next() if len(entries) > 1 else None
        return None if found is None else self._for(*found)

    def alike(self, candidate: Candidate) -> list[Candidate]:
        """Return what is tried next, whatever comes of a candidate: the rest of the rung that it is on, if any."""
        if self._bracket is None or self._entry(candidate) is None:
            return []
        return [self._for(*waiting) for waiting in self._bracket.waiting]

    def tell(self, candidate: Candidate, trial: Trial | None) -> bool:
        """Take in what came of a candidate, None where it has failed, and say whether it was one of a halving."""
        entry = self._entry(candidate)
        if self._bracket is None or entry is None:
            return False
        score = math.nan if trial is None or trial.judged is None else trial.judged.value
        if trial is None or trial.stuck:  # a longer one would end where this one has
            self._dead, score = self._dead + 1, math.nan
        else:
            self._dead = 0
        self._bracket.tell(entry, score)
        self._keep_leading(entry, trial)
        first = self._rungs[0] if len(self._rungs) > 1 else None  # scores of longer trainings would not compare
        if candidate.suggestion is not None and self._suggester is not None and candidate.epochs == first:
            self._suggester.tell(candidate.suggestion, self._sign * score)
        return True

    def close(self) -> None:
        """Let go of trainings that are paused."""
        for trial in self._short.values():
            trial.close()
        self._short.clear()

    def _entries(
        self,
        width: int,
        listed: Callable[[], Candidate | None],
        take: Callable[[Node, Step], Candidate | None],
        bases: Sequence[Node],
    ) -> list[Candidate]:
        """Return what a halving begins with, all of equal lengths."""
        if not width or self._suggester is None or self._dead >= _HOPELESS:
            return []
        entries = [candidate for _ in range(min(_LISTED, width - 1)) if (candidate := listed())]
        for draw in range(_DRAWS):
            if len(entries) >= width:
                break
            suggestion = self._suggester.suggest()
            step = self._suggested(suggestion)
            candidate = take(bases[draw % len(bases)], step) if step.edits else None
            if candidate is None:
                self._suggester.tell(suggestion, math.nan)
            else:
                entries.append(replace(candidate, suggestion=suggestion))
        return entries

    def _suggested(self, suggestion: SampledSettings) -> Step:
        names = tuple(d.repair for d, number in zip(self._dimensions, suggestion, strict=True) if number is not None)
        return Step(names, (), edits_of(suggestion, self._dimensions))

    def _for(self, candidate: Candidate, epochs: int) -> Candidate:
        whole = epochs == self._rungs[-1]
        return replace(candidate, epochs=None if whole else epochs, after=self._short.get(candidate))

    def _entry(self, candidate: Candidate) -> Candidate | None:
        entries = () if self._bracket is None else self._bracket.entries
        return next((entry for entry in entries if entry.spec is candidate.spec), None)

    def _keep_leading(self, entry: Candidate, trial: Trial | None) -> None:
        """Keep what may go on, this one too, and let go of the rest: paused trainings take memory."""
        assert self._bracket is not None, "only what competes is trained for fewer epochs"
        if (shorter := self._short.pop(entry, None)) is not None:
            shorter.close()  # where it has gone on elsewhere
        if trial is not None and trial.goes_on:
            self._short[entry] = trial
        leading = set(self._bracket.leading)
        for other in [c for c in self._short if c not in leading]:
            self._short.pop(other).close()
