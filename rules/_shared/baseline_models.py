"""Scores of simple models on the same data, where diagnostics have measured them, and how certain these are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import MAX_ROWS
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.held_out import held_out_high, held_out_skill
from autotrainer.rules._shared.loss_values import measures_distance
from autotrainer.rules._shared.outcome import outcome
from autotrainer.rules._shared.trends import wilson

__all__ = [
    "CHANCE",
    "SIMPLE_NEEDS",
    "Lead",
    "SimpleModel",
    "best_simple_model",
    "lead_of_simple_model",
    "skill_of",
    "with_simple_model",
]

SIMPLE_NEEDS = frozenset(
    {
        "linear_score",
        "kernel_score",
        "neighbour_score",
        "tree_score",
        "trivial_score",
        "held_out_score",
        "held_out_rows",
        "balanced_gap_low",
    }
)
"""Facts that are read here: names in `TaskContext.asked`."""

_NAMES = {
    "linear_score": "a linear model",
    "kernel_score": "a kernel ridge regression",
    "neighbour_score": "a nearest-neighbour model",
    "tree_score": "a small tree",
}

CHANCE = 2.5
"""Normal quantile of the lower end: one-sided 2.5 % for the best of four models (Bonferroni)."""

_Z = 1.64

_LAST, _LAST_ROWS, _FEW_LAST_ROWS = 3, 64, 32
"""Samples that show where a training ended, more of them if they hold fewer rows: up to those of the last quarter; and
rows from which they show it where the loss does not fall any more."""


@dataclass(frozen=True, slots=True)
class SimpleModel:
    """The simple model with the highest score.

    Attributes:
        name: Its name in a message.
        score: Its accuracy or R² on held-out rows.
        trivial: Score of the trivial predictor on the same rows.
        rows: Number of those rows.
        low: Lower end of its skill: 0 is the trivial predictor, 1 perfect.
        high: Upper end of it.
    """

    name: str
    score: float
    trivial: float
    rows: int
    low: float
    high: float

    @property
    def skill(self) -> float:
        """Its skill on these rows."""
        return (self.score - self.trivial) / (1 - self.trivial)

    @property
    def sentence(self) -> str:
        """Its score, as a sentence for a message."""
        return f"{self.name[0].upper()}{self.name[1:]} reaches {self.score:.3g} on {self.rows} held-out rows."


def best_simple_model(context: TaskContext) -> SimpleModel | None:
    """Return the simple model with the highest score; None where none was trained."""
    facts = context.asked
    scores = {name: facts[name] for name in _NAMES if name in facts and not math.isnan(facts[name])}
    trivial, rows = facts.get("trivial_score", math.nan), facts.get("held_out_rows", 0.0)
    if not scores or not trivial < 1 or not rows >= 1:
        return None
    best = max(scores, key=scores.__getitem__)
    score = scores[best]
    low, _ = skill_of(score, trivial, rows, CHANCE)
    _, high = skill_of(score, trivial, rows, _Z)
    if "simple_distinct" in facts:  # scored on all rows that there are, rather than on a sample
        low = (score - trivial) / (1 - trivial)
    return SimpleModel(_NAMES[best], score, trivial, int(rows), low, high)


def skill_of(score: float, trivial: float, rows: float, z: float = _Z) -> tuple[float, float]:
    """Return the confidence interval (low, high) of the skill that a score on this number of rows shows.

    Accuracy: Wilson (1927). R², whose trivial score is 0: its asymptotic error 2 √R² (1 − R²) ÷ √rows (Olkin and Finn,
    Psychological Bulletin 1995), and 2 ÷ rows at least. NaN for an unknown score.
    """
    if math.isnan(score):
        return math.nan, math.nan
    if trivial == 0:
        level = min(1.0, max(0.0, score))
        half = z * (2 * math.sqrt(level) * (1 - level) / math.sqrt(rows) + 2 / rows)
        return score - half, score + half
    low, high = wilson(min(1.0, max(0.0, score)), rows, z)
    return (low - trivial) / (1 - trivial), (high - trivial) / (1 - trivial)


def with_simple_model(finding: Finding, context: TaskContext) -> Finding:
    """Return a finding on a poor training, extended by the score of the best simple model on the same data."""
    simple = best_simple_model(context)
    if simple is None or context.asked.get("balanced_gap_low", 0) > 0:  # `class_imbalance` then says more
        return finding
    comparison = (
        simple.sentence
        if simple.low > 0
        else "No simple model does better than chance: check whether each input is paired with its own target."
    )
    evidence = {**finding.evidence, "simple_score": simple.score, "held_out_rows": float(simple.rows)}
    return replace(finding, message=f"{finding.message} {comparison}", evidence=evidence)


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much a simple model is ahead of a watched network, beyond noise.

    Attributes:
        simple: The simple model.
        gap: Its score on rows that it has not seen less that of the network on training or validation rows.
    """

    simple: SimpleModel
    gap: float


def lead_of_simple_model(history: RunHistory, context: TaskContext) -> Lead | None:
    """Return how far a simple model is ahead at the end of a watched training; None if it is not, beyond noise.

    The network counts by its best measurement, as the rows are not those of the simple model: over the last half of the
    run, in its last samples, or in validation. Losses that weight classes allow no comparison.
    """
    simple = best_simple_model(context)
    if simple is None or context.managed or not history.finished or context.loss.weighted:
        return None
    result = outcome(history, context)
    if not result.known or not (result.regression or result.trivial < 1):
        return None
    if not result.progress >= 1:
        return None  # a trial of a few steps
    if context.dropout and math.isnan(held_out_skill(history, context)):
        return None  # while it is trained, a network with dropout does worse than afterwards
    if result.regression and context.loss.expects in ("log_probabilities", "log_values"):
        return None  # its score is a share of the deviance
    if result.regression and context.loss.own and measures_distance(history) is False:
        return None  # it ranks or correlates, and its outputs may be anywhere
    ended = _last_samples(history)
    if result.regression:
        last = 1 - float(np.mean(history.scalar("squared_error")[ended])) / history.targets.variance
    else:
        last = (float(np.mean(history.scalar("accuracy")[ended])) - result.trivial) / (1 - result.trivial)
    rows = float(np.nansum(np.clip(history.scalar("batch_size")[ended], 1, MAX_ROWS)))
    if rows < _FEW_LAST_ROWS and not result.trend.falling:
        last = math.nan  # noise; the score has not changed over the last half of the run
    # The order matters: `max` keeps its first argument if others are unknown
    if not simple.low > max(result.high, held_out_high(history, context), last):
        return None
    skill = max(result.skill, held_out_skill(history, context), last, -1.0)
    return Lead(simple, (simple.skill - skill) * (1.0 if result.regression else 1 - result.trivial))


def _last_samples(history: RunHistory) -> slice:
    """Return the samples that show where a training ended."""
    sizes = np.nan_to_num(np.clip(history.scalar("batch_size"), 1, MAX_ROWS), nan=1.0)
    count = int(np.searchsorted(np.cumsum(sizes[::-1]), _LAST_ROWS)) + 1
    late = int((history.steps >= 0.75 * history.step).sum())
    return slice(-max(_LAST, min(count, late)), None)
