"""A search of settings by successive halving: many short trainings, the best of them longer, one in full."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.repair import Dimension
from autotrainer.scoring.metrics import Metric
from autotrainer.search.candidate import Candidate, Node
from autotrainer.search.halving.brackets import Bracket, rungs, width_within
from autotrainer.search.halving.samplers import SampledSettings, edits_of, make_sampler
from autotrainer.search.planner import Step
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

__all__ = ["HalvingSearch"]

_BY_EVIDENCE = 3
"""Attempts by evidence that take part in each halving."""
_MAX_DRAWS = 50
"""Maximum number of draws for one halving: most of a small space may have been tried."""
_MAX_FAILURES = 20
"""Consecutive failed or stuck trainings after which the search ends: two halvings of nine, and more."""


class HalvingSearch:
    """Chooses the next training of a successive halving; when one ends, another begins. Deterministic.

    Each halving begins with some steps by evidence, and with settings that are sampled without evidence.

    Args:
        dimensions: The search space; without any dimension there is no halving.
        metric: Compares scores.
        baseline: The baseline training.
        budget: Limits the work.
        resumable: Whether paused trainings can continue.

    Attributes:
        limited: Whether the budget did not allow another halving.
    """

    def __init__(
        self, dimensions: Sequence[Dimension], metric: Metric, baseline: Trial, budget: Budget, *, resumable: bool
    ) -> None:
        self._dimensions, self._sign, self._budget, self._resumable = dimensions, metric.sign, budget, resumable
        self._rungs = rungs(baseline.spec.epochs, baseline.context.planned_steps)
        self._sampler = make_sampler(dimensions, baseline.spec.seed) if dimensions else None
        self._bracket: Bracket[Candidate] | None = None
        self._paused: dict[TrainingSpec, Trial] = {}
        self._failures = 0
        self.limited = False

    def next(
        self,
        next_by_evidence: Callable[[], Candidate | None],
        new_candidate: Callable[[Node, Step], Candidate | None],
        bases: Sequence[Node],
        cost: float = 1.0,
        epochs: int = 0,
    ) -> Candidate | None:
        """Return the next candidate, or None if nothing is left or fits into the budget.

        Args:
            next_by_evidence: Returns the next candidate by evidence, or None.
            new_candidate: Returns the candidate for a step on top of a training, or None if that was tried.
            bases: Trainings on top of which settings are tried, in turn.
            cost: Work of the longest of them, in baseline trainings.
            epochs: Its epochs, if more than those of the baseline: only the last rung trains as long.
        """
        entry = None if self._bracket is None else self._bracket.next()
        if entry is None:
            left = self._budget.left / cost
            lengths = [*self._rungs[:-1], max(epochs, self._rungs[-1])]
            width = width_within(left, lengths, resumable=self._resumable) or int(left >= 1)
            self.limited |= self._sampler is not None and not width
            entries = self._entries(width, next_by_evidence, new_candidate, bases)
            if len(entries) < 2:  # nothing to compare, or no room for it: one full training
                self._bracket = None
                return entries[0] if entries else None
            self._bracket = Bracket(entries, self._rungs, lambda score: self._sign * score)
            entry = self._bracket.next()
        return None if entry is None else self._on_rung(*entry)

    def rest_of_rung(self, candidate: Candidate) -> list[Candidate]:
        """Return the other pending candidates of a candidate's rung: they run whatever its outcome."""
        if self._bracket is None or self._entry(candidate) is None:
            return []
        return [self._on_rung(*pending) for pending in self._bracket.pending]

    def contains(self, candidate: Candidate) -> bool:
        """Return whether a candidate belongs to the halving."""
        return self._entry(candidate) is not None

    def add(self, candidate: Candidate, trial: Trial | None) -> bool:
        """Record the outcome of a candidate, None if it has failed; return whether it belongs to the halving."""
        entry = self._entry(candidate)
        if self._bracket is None or entry is None:
            return False
        score = math.nan if trial is None or trial.score is None else trial.score.value
        if trial is None or trial.stuck:  # a longer training would end at the same point
            self._failures, score = self._failures + 1, math.nan
        else:
            self._failures = 0
        self._bracket.add(entry, score)
        self._keep_leading(entry, trial)
        first = self._rungs[0] if len(self._rungs) > 1 else None  # scores of longer trainings do not compare
        if candidate.settings is not None and self._sampler is not None and candidate.epochs == first:
            self._sampler.add(candidate.settings, self._sign * score)
        return True

    @property
    def running(self) -> bool:
        """Whether a halving has begun and has not ended."""
        return self._bracket is not None and not self._bracket.ended

    def close(self) -> None:
        """Give up all paused trainings."""
        for trial in self._paused.values():
            trial.close()
        self._paused.clear()

    def _entries(
        self,
        width: int,
        next_by_evidence: Callable[[], Candidate | None],
        new_candidate: Callable[[Node, Step], Candidate | None],
        bases: Sequence[Node],
    ) -> list[Candidate]:
        if not width or self._sampler is None or self._failures >= _MAX_FAILURES:
            return []
        entries = [candidate for _ in range(min(_BY_EVIDENCE, max(1, width - 1))) if (candidate := next_by_evidence())]
        for draw in range(_MAX_DRAWS):
            if len(entries) >= width:
                break
            settings = self._sampler.sample()
            step = self._step(settings)
            candidate = new_candidate(bases[draw % len(bases)], step) if step.edits else None
            if candidate is None:
                self._sampler.add(settings, math.nan)
            else:
                entries.append(replace(candidate, settings=settings))
        return entries

    def _step(self, settings: SampledSettings) -> Step:
        repairs = tuple(d.repair for d, index in zip(self._dimensions, settings, strict=True) if index is not None)
        options = zip(settings, self._dimensions, strict=True)
        repair_of = {edit: d.repair for index, d in options if index is not None for edit in d.options[index]}
        edits = edits_of(settings, self._dimensions)
        return Step(repairs, (), edits, tuple(repair_of[edit] for edit in edits))

    def _on_rung(self, candidate: Candidate, epochs: int) -> Candidate:
        full = epochs == self._rungs[-1]
        return replace(candidate, epochs=None if full else epochs, shorter=self._paused.get(candidate.spec))

    def _entry(self, candidate: Candidate) -> Candidate | None:
        entries = () if self._bracket is None else self._bracket.entries
        return next((entry for entry in entries if entry.spec == candidate.spec), None)

    def _keep_leading(self, entry: Candidate, trial: Trial | None) -> None:
        """Keep the paused trainings that may continue, and give up the others: they take memory."""
        assert self._bracket is not None, "only a bracket has rungs"
        if (shorter := self._paused.pop(entry.spec, None)) is not None:
            shorter.close()  # it may have continued in another process
        if trial is not None and trial.resumable:
            self._paused[entry.spec] = trial
        leading = {candidate.spec for candidate in self._bracket.leading}
        for spec in [spec for spec in self._paused if spec not in leading]:
            self._paused.pop(spec).close()
