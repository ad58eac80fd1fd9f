"""Settings to try without evidence: sampled by Optuna if it is installed, else at random near the best so far."""

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
"""For each dimension the index of an option, or None to leave it unchanged."""

_VARIED = 0.4
"""Probability that a dimension is varied at all; the learning rate always is."""
_ALWAYS = "scale_learning_rate"


_SEEDS = 1 << 32
"""Number of seeds that Optuna's sampler takes."""


class SettingsSampler(Protocol):
    """Samples settings, and learns from their scores."""

    def sample(self) -> SampledSettings:
        """Return settings."""

    def add(self, settings: SampledSettings, score: float) -> None:
        """Record the score of settings, higher being better, NaN for a failed training."""


class RandomSampler:
    """Samples every dimension at random, or one of the best settings so far with up to a third of them drawn again.

    Args:
        dimensions: The dimensions of the search space.
        seed: Seed of the draws.
    """

    def __init__(self, dimensions: Sequence[Dimension], seed: int) -> None:
        self._dimensions = dimensions
        self._random = np.random.default_rng(seed)
        self._scores: list[tuple[float, SampledSettings]] = []

    def sample(self) -> SampledSettings:
        """Return settings."""
        scores = [entry for entry in self._scores if math.isfinite(entry[0])]
        if len(scores) < len(self._dimensions) or self._random.random() < 1 / 3:
            return tuple(self._draw(dimension) for dimension in self._dimensions)
        best = sorted(scores, key=lambda entry: -entry[0])[: max(1, len(scores) // 4)]
        settings = list(best[self._random.integers(len(best))][1])
        most = 1 + len(settings) // 3
        for place in self._random.permutation(len(settings))[: self._random.integers(1, most + 1)]:
            settings[place] = self._draw(self._dimensions[place])
        return tuple(settings)

    def add(self, settings: SampledSettings, score: float) -> None:
        """Record the score of settings."""
        self._scores.append((score, settings))

    def _draw(self, dimension: Dimension) -> int | None:
        if dimension.repair != _ALWAYS and self._random.random() >= _VARIED:
            return None
        return int(self._random.integers(len(dimension.options)))


class OptunaSampler:
    """Samples with Optuna's tree-structured Parzen estimator (Bergstra et al. 2011), after random draws to learn from.

    Options are treated as ordered integers.

    Args:
        dimensions: The dimensions of the search space.
        seed: Seed of the sampler.
    """

    def __init__(self, dimensions: Sequence[Dimension], seed: int) -> None:
        import optuna

        self._dimensions = dimensions
        self._random = RandomSampler(dimensions, seed)
        self._draws = 2 * len(dimensions)
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed % _SEEDS, n_startup_trials=self._draws)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        optuna.logging.set_verbosity(before)
        self._open: dict[SampledSettings, Any] = {}

    def sample(self) -> SampledSettings:
        """Return settings."""
        if len(self._study.trials) < self._draws:
            drawn = self._random.sample()
            self._study.enqueue_trial(
                {d.repair: -1 if n is None else n for d, n in zip(self._dimensions, drawn, strict=True)}
            )
        trial = self._study.ask()
        indices = [trial.suggest_int(d.repair, -1, len(d.options) - 1) for d in self._dimensions]
        settings = tuple(None if index < 0 else index for index in indices)
        self._open[settings] = trial
        return settings

    def add(self, settings: SampledSettings, score: float) -> None:
        """Record the score of settings."""
        from optuna.trial import TrialState

        self._random.add(settings, score)
        trial = self._open.pop(settings, None)
        if trial is not None and math.isfinite(score):
            self._study.tell(trial, score)
        elif trial is not None:
            self._study.tell(trial, state=TrialState.FAIL)


def make_sampler(dimensions: Sequence[Dimension], seed: int) -> SettingsSampler:
    """Return Optuna's sampler if it is installed (``pip install 'autotrainer-monitor[search]'``), else a random one."""
    if importlib.util.find_spec("optuna") is None:
        return RandomSampler(dimensions, seed)
    logging.getLogger("autotrainer").debug("the search without evidence uses Optuna")
    return OptunaSampler(dimensions, seed)


def edits_of(settings: SampledSettings, dimensions: Sequence[Dimension]) -> tuple[Edit, ...]:
    """Return the edits of settings, a new optimizer before its learning rate."""
    chosen = [
        edit
        for index, dimension in zip(settings, dimensions, strict=True)
        if index is not None
        for edit in dimension.options[index]
    ]
    return tuple(sorted(chosen, key=lambda edit: type(edit).__name__ != "SwapOptimizer"))
