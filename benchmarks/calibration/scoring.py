"""Precision and recall of a rule over one of its thresholds, and what cross-validation would choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.calibration.replay import Axis

__all__ = ["BARS", "Counts", "Judged", "Validation", "counts", "cross_validate", "has_effect", "wins"]

BARS = {"error": ("error",), "warning": ("error", "warning")}
"""What counts as found, by name: an error at the end of the run; an error or a warning."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One recorded training.

    Attributes:
        faulty: Whether its score shows a fault; if not, it is healthy by its score.
        accepted: Problems that name the cause of its fault.
        groups: Its group by ``data`` and by ``kind``.
        levels: Severity at the end by ``problem.threshold``, one for each value; see `calibration_replay`.
    """

    faulty: bool
    accepted: frozenset[str]
    groups: dict[str, str]
    levels: dict[str, list[str | None]]


@dataclass(frozen=True, slots=True)
class Counts:
    """How often a rule was right.

    Attributes:
        hits: Faulty trainings with the finding whose cause it names.
        misses: Faulty trainings whose cause it names, without it.
        alarms: Healthy trainings with it.
        healthy: Healthy trainings.
        beside: Faulty trainings of another cause with it: mostly a consequence, so neither right nor wrong.
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
        """Share of the faulty trainings with this cause that have the finding; NaN of none."""
        return _share(self.hits, self.hits + self.misses)

    @property
    def precision(self) -> float:
        """Share of hits among hits and false alarms; NaN of none."""
        return _share(self.hits, self.hits + self.alarms)

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, 0 without hits; NaN if there is nothing to find."""
        return _share(2 * self.hits, 2 * self.hits + self.misses + self.alarms) if self.hits + self.misses else math.nan


@dataclass(frozen=True, slots=True)
class Validation:
    """What leaving out one group after the other says of a threshold.

    Attributes:
        groups: Number of groups.
        chosen: The value chosen without each group.
        held: Counts on the groups left out, with the values chosen without them.
        default: Counts on the same groups with the default.
    """

    groups: int
    chosen: tuple[float, ...]
    held: Counts
    default: Counts

    @property
    def middle(self) -> float:
        """Median of the chosen values."""
        return median(self.chosen)


def counts(judged: Sequence[Judged], axis: Axis, bar: str = "error") -> list[Counts]:
    """Count for each value of a threshold.

    Args:
        judged: The trainings.
        axis: The threshold.
        bar: A name of `BARS`.
    """
    found = []
    for i in range(len(axis.values)):
        seen = [(one, one.levels[axis.name][i] in BARS[bar]) for one in judged]
        cause = [hit for one, hit in seen if one.faulty and axis.problem in one.accepted]
        alarms = [hit for one, hit in seen if not one.faulty]
        beside = [hit for one, hit in seen if one.faulty and axis.problem not in one.accepted]
        found.append(Counts(sum(cause), len(cause) - sum(cause), sum(alarms), len(alarms), sum(beside)))
    return found


def wins(found: Sequence[Counts], axis: Axis) -> int:
    """Return which value has the best F1; of several, the one nearest to the default. Nothing to find: the default."""
    usual = axis.values.index(axis.default)
    if math.isnan(found[usual].f1):
        return usual
    return max(range(len(found)), key=lambda i: (found[i].f1, -abs(i - usual), -i))


def has_effect(judged: Sequence[Judged], axis: Axis) -> bool:
    """Say whether any training is judged differently somewhere on the axis."""
    return any(len(set(one.levels[axis.name])) > 1 for one in judged)


def cross_validate(judged: Sequence[Judged], axis: Axis, by: str, bar: str = "error") -> Validation:
    """Choose the value without each group in turn, and count on that group.

    Args:
        judged: The trainings.
        axis: The threshold.
        by: ``data`` or ``kind``.
        bar: A name of `BARS`.
    """
    usual = axis.values.index(axis.default)
    of_group: dict[str, list[Judged]] = {}
    for one in judged:
        of_group.setdefault(one.groups[by], []).append(one)
    per_group = {group: counts(members, axis, bar) for group, members in of_group.items()}
    everything = [sum(column, Counts()) for column in zip(*per_group.values(), strict=True)]
    chosen, held, default = [], Counts(), Counts()
    for group in sorted(per_group):
        own = per_group[group]
        rest = [_less(whole, part) for whole, part in zip(everything, own, strict=True)]
        best = wins(rest, axis)
        chosen.append(axis.values[best])
        held, default = held + own[best], default + own[usual]
    return Validation(len(per_group), tuple(chosen), held, default)


def _less(whole: Counts, part: Counts) -> Counts:
    return Counts(*(getattr(whole, name) - getattr(part, name) for name in Counts.__slots__))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
