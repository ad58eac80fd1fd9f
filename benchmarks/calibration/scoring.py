"""Precision and recall of a rule over one of its thresholds, and what cross-validation would choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.calibration.replay import Axis

__all__ = ["BARS", "Counts", "LabelledRun", "Validation", "best_value", "counts", "cross_validate", "has_effect"]

BARS = {"error": ("error",), "warning": ("error", "warning")}
"""What counts as a detection, by name: an error at the end of the run; an error or a warning."""


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """A recorded training with the true state that its score shows.

    Attributes:
        faulty: Whether its score shows a fault; otherwise the score shows that it is healthy.
        accepted: Problems that name the cause of its fault.
        groups: Its group by ``data`` (the family of programs) and by ``kind`` of network.
        levels: Severity at the end by ``problem.threshold``, one for each value; see `replay`.
    """

    faulty: bool
    accepted: frozenset[str]
    groups: dict[str, str]
    levels: dict[str, list[str | None]]


@dataclass(frozen=True, slots=True)
class Counts:
    """How often a rule was right.

    Attributes:
        hits: Faulty trainings with the finding, whose cause it names.
        misses: Faulty trainings whose cause it names, without it.
        alarms: Healthy trainings with it.
        healthy: Healthy trainings.
        beside: Faulty trainings of another cause with it: mostly a consequence, so neither hit nor false alarm.
    """

    hits: int = 0
    misses: int = 0
    alarms: int = 0
    healthy: int = 0
    beside: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def recall(self) -> float:
        """Share of the faulty trainings with this cause that have the finding; NaN if there are none."""
        return _share(self.hits, self.hits + self.misses)

    @property
    def precision(self) -> float:
        """Share of hits among hits and false alarms; NaN if there are none."""
        return _share(self.hits, self.hits + self.alarms)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, 0 without hits; NaN if there is nothing to detect."""
        return _share(2 * self.hits, 2 * self.hits + self.misses + self.alarms) if self.hits + self.misses else math.nan


@dataclass(frozen=True, slots=True)
class Validation:
    """Result of cross-validating a threshold over groups.

    Attributes:
        groups: Number of groups.
        chosen: The value chosen without each group.
        held_out: Counts on each held-out group, with the value chosen without it.
        fitted: Counts on all groups with the value chosen on all of them.
        default: Counts on the same groups with the default.
    """

    groups: int
    chosen: tuple[float, ...]
    held_out: Counts
    fitted: Counts
    default: Counts

    @property
    def optimism(self) -> float:
        """How much F1 falls from the trainings that a value is chosen on to programs left out; NaN without a cause."""
        return self.fitted.f1 - self.held_out.f1

    @property
    def middle(self) -> float:
        """Median of the chosen values."""
        return median(self.chosen)


def counts(labelled: Sequence[LabelledRun], axis: Axis, bar: str = "error") -> list[Counts]:
    """Return the counts for each value of a threshold.

    Args:
        labelled: The labelled trainings.
        axis: The threshold.
        bar: A name of `BARS`.
    """
    totals = []
    for i in range(len(axis.values)):
        detected = [(training, training.levels[axis.name][i] in BARS[bar]) for training in labelled]
        cause = [hit for training, hit in detected if training.faulty and axis.problem in training.accepted]
        alarms = [hit for training, hit in detected if not training.faulty]
        beside = [hit for training, hit in detected if training.faulty and axis.problem not in training.accepted]
        totals.append(Counts(sum(cause), len(cause) - sum(cause), sum(alarms), len(alarms), sum(beside)))
    return totals


def best_value(totals: Sequence[Counts], axis: Axis) -> int:
    """Return the index of the value with the best F1; of several, the nearest to the default. No F1: the default."""
    default_index = axis.values.index(axis.default)
    if math.isnan(totals[default_index].f1):
        return default_index
    return max(range(len(totals)), key=lambda i: (totals[i].f1, -abs(i - default_index), -i))


def has_effect(labelled: Sequence[LabelledRun], axis: Axis) -> bool:
    """Return whether any value of the threshold changes the severity in some training."""
    return any(len(set(training.levels[axis.name])) > 1 for training in labelled)


def cross_validate(labelled: Sequence[LabelledRun], axis: Axis, by: str, bar: str = "error") -> Validation:
    """Choose the value without each group in turn, and return the counts on the groups left out.

    Args:
        labelled: The labelled trainings.
        axis: The threshold.
        by: ``data`` (the family of programs) or ``kind``.
        bar: A name of `BARS`.
    """
    default_index = axis.values.index(axis.default)
    of_group: dict[str, list[LabelledRun]] = {}
    for training in labelled:
        of_group.setdefault(training.groups[by], []).append(training)
    per_group = {group: counts(members, axis, bar) for group, members in of_group.items()}
    everything = [sum(column, Counts()) for column in zip(*per_group.values(), strict=True)]
    chosen, held_out, default = [], Counts(), Counts()
    for group in sorted(per_group):
        left_out = per_group[group]
        rest = [_less(whole, part) for whole, part in zip(everything, left_out, strict=True)]
        best = best_value(rest, axis)
        chosen.append(axis.values[best])
        held_out, default = held_out + left_out[best], default + left_out[default_index]
    fitted = everything[best_value(everything, axis)]
    return Validation(len(per_group), tuple(chosen), held_out, fitted, default)


def _less(whole: Counts, part: Counts) -> Counts:
    return Counts(*(getattr(whole, name) - getattr(part, name) for name in Counts.__slots__))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
