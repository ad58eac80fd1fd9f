"""Settings to try without evidence: drawn at random near the best so far, or by Optuna where that is installed."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from autotrainer.edits import Edit
from autotrainer.repair import Dimension

__all__ = ["RandomSampler", "SampledSettings", "make_sampler"]

SampledSettings = tuple[int | None, ...]
"""For each dimension the number of its option, or None for what the training has."""

_VARIED = 0.4
"""Chance that a dimension is varied at all; the learning rate always is."""
_ALWAYS = "scale_learning_rate"


class SettingsSampler(Protocol):
    """Suggests settings, and learns from their scores."""

    def suggest(self) -> SampledSettings:
        """Return settings."""

    def tell(self, suggestion: SampledSettings, score: float) -> None:
        """Take in a score, higher being better, NaN for a training that failed."""


class RandomSampler:
    """Draws at random: every dimension, or as in one of the best so far, with up to a third of them drawn anew.

    Args:
        dimensions: What may vary.
        seed: Seed of the draws.
    """

    def __init__(self, dimensions: Sequence[Dimension], seed: int) -> None:
        self._dimensions = dimensions
        self._random = np.random.default_rng(seed)
        self._told: list[tuple[float, SampledSettings]] = []

    def suggest(self) -> SampledSettings:
        """Return settings."""
        scores = [told for told in self._told if math.isfinite(told[0])]
        if len(scores) < len(self._dimensions) or self._random.random() < 1 / 3:
            return tuple(self._drawn(dimension) for dimension in self._dimensions)
        best = sorted(scores, key=lambda told: -told[0])[: max(1, len(scores) // 4)]
        suggestion = list(best[self._random.integers(len(best))][1])
        most = 1 + len(suggestion) // 3
        for place in self._random.permutation(len(suggestion))[: self._random.integers(1, most + 1)]:
            suggestion[place] = self._drawn(self._dimensions[place])
        return tuple(suggestion)

    def tell(self, suggestion: SampledSettings, score: float) -> None:
        """Take in a score."""
        self._told.append((score, suggestion))

    def _drawn(self, dimension: Dimension) -> int | None:
        if dimension.repair != _ALWAYS and self._random.random() >= _VARIED:
            return None
        return int(self._random.integers(len(dimension.options)))


class OptunaSampler:
    """Asks Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), which learns from random draws first.

    Options count as numbers in their order.

    Args:
        dimensions: What may vary.
        seed: Seed of the sampler.
    """

    def __init__(self, dimensions: Sequence[Dimension], seed: int) -> None:
        import optuna

        self._dimensions = dimensions
        self._random = RandomSampler(dimensions, seed)
        self._draws = 2 * len(dimensions)
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._draws)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        optuna.logging.set_verbosity(before)
        self._open: dict[SampledSettings, Any] = {}

    def suggest(self) -> SampledSettings:
        """Return settings."""
        if len(self._study.trials) < self._draws:
            drawn = self._random.suggest()
            self._study.enqueue_trial(
                {d.repair: -1 if n is None else n for d, n in zip(self._dimensions, drawn, strict=True)}
            )
        trial = self._study.ask()
        numbers = [trial.suggest_int(d.repair, -1, len(d.options) - 1) for d in self._dimensions]
        suggestion = tuple(None if number < 0 else number for number in numbers)
        self._open[suggestion] = trial
        return suggestion

    def tell(self, suggestion: SampledSettings, score: float) -> None:
        """Take in a score."""
        from optuna.trial import TrialState

        self._random.tell(suggestion, score)
        trial = self._open.pop(suggestion, None)
        if trial is not None and math.isfinite(score):
            self._study.tell(trial, score)
        elif trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)


def make_sampler(dimensions: Sequence[Dimension], seed: int) -> SettingsSampler:
    """Return Optuna where it is installed (``pip install 'autotrainer-monitor[search]'``), else random draws."""
    if importlib.util.find_spec("optuna") is None:
        return RandomSampler(dimensions, seed)
    logging.getLogger("autotrainer").debug("the search without evidence is Optuna's")
    return OptunaSampler(dimensions, seed)


def edits_of(suggestion: SampledSettings, dimensions: Sequence[Dimension]) -> tuple[Edit, ...]:
    """Return the edits of a suggestion, those of an optimizer before its rate."""
    chosen = [
        edit
        for number, dimension in zip(suggestion, dimensions, strict=True)
        if number is not None
        for edit in dimension.options[number]
    ]
    return tuple(sorted(chosen, key=lambda edit: type(edit).__name__ != "SwapOptimizer"))
