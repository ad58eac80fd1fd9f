"""The result of comparing runs with a baseline, as text and plain values."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from autotrainer._version import __version__
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.outcome import plain
from autotrainer.reporting.text import count, number
from autotrainer.safe_text import safe_line

__all__ = ["Comparison", "Deviation", "FindingChange", "OutcomeChange"]

FORMAT = 1
"""Version of the JSON format."""

_WIDTH = 100
_LEVEL = 0.05
"""Probability from which a finding that some runs of the baseline have, too, may be in more runs by chance."""
_MAX_LAYERS, _MAX_STATISTICS, _MAX_SETUP = 3, 8, 12
"""Layers that are named for one statistic, and lines about statistics and about the setup."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A statistic that differs from the baseline by more than chance.

    Attributes:
        step: 0-based sampled step from which it does.
        layer: Name of the layer in the run; empty for a statistic of the step or of the epochs.
        statistic: Name of the statistic: a column of the run log, or a value of ``end_epoch``.
        value: Its value in the run (mean of several runs), where it differs by the largest factor.
        baseline: Its value in the baseline there.
        sigmas: The largest difference, in standard deviations between seeds; NaN for a difference from the same start.
        lasting: Whether it differs up to the last step that the runs have in common.
    """

    step: int
    layer: str
    statistic: str
    value: float
    baseline: float
    sigmas: float
    lasting: bool

    @property
    def words(self) -> str:
        """The change in a few words: ``×0.001``, or both values."""
        ratio = self.value / self.baseline if self.baseline else math.nan
        if math.isfinite(ratio) and ratio > 0 and not 0.5 < ratio < 2:
            return f"×{number(float(f'{ratio:.2g}'))}"
        return f"{number(self.value)} instead of {number(self.baseline)}"

    def __str__(self) -> str:
        where = f" of layer {self.layer}" if self.layer else ""
        return safe_line(f"{self.statistic.replace('_', ' ')}{where}: {self.words} since step {self.step}")


@dataclass(frozen=True, slots=True)
class OutcomeChange:
    """A metric at the end of the runs, or at the last step that they have in common.

    Attributes:
        metric: Name of the metric.
        baseline: Its values in the runs of the baseline.
        runs: Its values in the other runs.
        verdict: ``worse``, ``better``, ``different`` (the name does not tell which is better) or ``same`` (the
            difference is within chance).
        p: Probability that chance gives such a difference.
    """

    metric: str
    baseline: tuple[float, ...]
    runs: tuple[float, ...]
    verdict: str
    p: float

    def __str__(self) -> str:
        verdict = {"same": "no difference beyond chance"}.get(self.verdict, self.verdict)
        return safe_line(f"{self.metric}: {_range(self.baseline)} → {_range(self.runs)}, {verdict} (p = {self.p:.2g})")


@dataclass(frozen=True, slots=True)
class FindingChange:
    """A problem whose severity in most runs is another one than in most runs of the baseline.

    Attributes:
        finding: The finding, with the severity that most runs have; for one that is gone, that of the baseline.
        before: Its severity in most runs of the baseline; None if they do not have it.
        after: Its severity in most other runs; None if they do not have it.
        runs: Number of the other runs that have it as a warning or an error.
        baseline: Number of runs of the baseline that have it so.
    """

    finding: Finding
    before: Severity | None
    after: Severity | None
    runs: int
    baseline: int

    @property
    def kind(self) -> str:
        """``new``, ``gone``, ``more severe`` or ``less severe``."""
        if self.before is None:
            return "new"
        if self.after is None:
            return "gone"
        return "more severe" if self.after.rank < self.before.rank else "less severe"

    def __str__(self) -> str:
        return safe_line(f"{self.kind}: {self.finding}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How runs differ from a baseline: ``str(comparison)`` is its text form.

    Attributes:
        baseline: Names of the runs of the baseline.
        runs: Names of the runs that are compared with it.
        identical: Whether all that both sides measured is equal, up to rounding.
        same_start: Whether a run starts as a run of the baseline does, with the same weights and data, as with equal
            seeds.
        parted: Where such a run first differs from that run by more than rounding; without equal starts, the earliest
            of ``deviations``; None if there is none.
        deviations: Statistics that differ by more than chance, the earliest first.
        score: Anomaly score: -log10 of the probability that chance gives such differences (all statistics of all
            layers at once, Simes' test). 0 is usual, 2 is one in a hundred.
        baseline_scores: The score of each run of the baseline, compared with its other runs; empty with fewer than
            three.
        outcomes: Metrics at the end.
        findings: Problems that are new, gone, or of another severity.
        setup: Differences in model, data and settings, in words.
        notes: What limits the comparison, in words.
        fail_on: Lowest severity of a new finding that makes the runs worse.
    """

    baseline: tuple[str, ...]
    runs: tuple[str, ...]
    identical: bool = False
    same_start: bool = False
    parted: Deviation | None = None
    deviations: tuple[Deviation, ...] = ()
    score: float = 0.0
    baseline_scores: tuple[float, ...] = ()
    outcomes: tuple[OutcomeChange, ...] = ()
    findings: tuple[FindingChange, ...] = ()
    setup: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fail_on: Severity = Severity.ERROR

    @property
    def differs(self) -> bool:
        """Whether the runs behave differently by more than chance: a score of 2, and above those of the baseline."""
        return self.score >= max(2.0, *self.baseline_scores, 2.0)

    @property
    def worse(self) -> bool:
        """Whether the runs are worse: a metric is, by more than chance, or an error is new in most runs."""
        return any(o.verdict == "worse" for o in self.outcomes) or any(map(self._counts, self.findings))

    def _counts(self, change: FindingChange) -> bool:
        if change.kind not in ("new", "more severe") or change.after is None:
            return False
        p = _chance(change.runs, len(self.runs), change.baseline, len(self.baseline))
        return change.after.rank <= self.fail_on.rank and (not change.baseline or p < _LEVEL)

    @property
    def brief(self) -> str:
        """The verdict and where the runs part, in one line."""
        parted = f"; first: {self.parted}" if self.parted is not None else ""
        return safe_line(f"{self.headline}{parted}").removeprefix("autotrainer: ")

    @property
    def text(self) -> str:
        """The text form, in lines of at most about 100 characters."""
        blocks = [_wrap(self.headline)]
        if not self.identical:
            blocks.append(_titled("Outcome", map(str, self.outcomes)))
            blocks.append(_titled("Findings", self._finding_lines()))
            blocks.append(_titled("Where the runs part", self._part_lines()))
        setup = [
            *self.setup[:_MAX_SETUP],
            *([f"… and {len(self.setup) - _MAX_SETUP} more"] * (len(self.setup) > _MAX_SETUP)),
        ]
        blocks.append(_titled("Setup", setup))
        blocks.append(_titled("Note", self.notes))
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def __str__(self) -> str:
        return self.text

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        sides = f"{count(len(self.runs), 'run')} against {count(len(self.baseline), 'baseline run')}"
        if self.identical:
            return f"autotrainer: no difference: {sides}, equal in all that was measured"
        if self.worse:
            reasons = [
                f"{o.metric} {_mean(o.baseline)} → {_mean(o.runs)}" for o in self.outcomes if o.verdict == "worse"
            ]
            reasons += [f"{c.finding.problem} ({c.kind})" for c in self.findings if self._counts(c)]
            return f"autotrainer: worse than the baseline: {', '.join(reasons)} ({sides})"
        better = [o.metric for o in self.outcomes if o.verdict == "better"]
        also = f", better in {', '.join(better)}" if better else ""
        if self.differs or self.findings or better:
            return f"autotrainer: differs from the baseline, but is not worse{also} ({sides})"
        return f"autotrainer: no difference beyond chance ({sides})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON; NaN becomes None, infinities become strings."""
        return {
            "autotrainer_comparison": FORMAT,
            "version": __version__,
            "worse": self.worse,
            "differs": self.differs,
            "identical": self.identical,
            "same_start": self.same_start,
            "score": round(self.score, 3),
            "baseline_scores": [round(score, 3) for score in self.baseline_scores],
            "baseline": list(self.baseline),
            "runs": list(self.runs),
            "parted": None if self.parted is None else plain(asdict(self.parted)),
            "deviations": [plain(asdict(deviation)) for deviation in self.deviations],
            "outcomes": [plain(asdict(outcome)) for outcome in self.outcomes],
            "findings": [
                {
                    "kind": change.kind,
                    "before": change.before and str(change.before),
                    "after": change.after and str(change.after),
                    "runs": change.runs,
                    "baseline": change.baseline,
                    "finding": change.finding.to_summary(),
                }
                for change in self.findings
            ],
            "setup": list(self.setup),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return strict JSON; the key ``autotrainer_comparison`` holds the version of the format."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def _finding_lines(self) -> Iterator[str]:
        for change in self.findings:
            several = len(self.runs) + len(self.baseline) > 2
            shares = (
                f"{change.runs} of {count(len(self.runs), 'run')}, {change.baseline} of {len(self.baseline)} before"
            )
            yield f"{change}" + (f" (in {shares})" if several else "")

    def _part_lines(self) -> Iterator[str]:
        if self.parted is not None:
            yield f"first: {self.parted}" + " (against the baseline run with the same start)" * self.same_start
        chance = f"anomaly score {self.score:.1f}"
        if self.baseline_scores:
            chance += f"; runs of the baseline among each other: up to {max(self.baseline_scores):.1f}"
        yield f"{chance} (2 and more is beyond chance)"
        ranked = sorted(self.deviations, key=lambda d: d.statistic)
        groups = [list(group) for _, group in groupby(ranked, key=lambda d: d.statistic)]
        groups.sort(key=lambda group: -max(abs(d.sigmas) for d in group))
        for group in groups[:_MAX_STATISTICS]:
            yield _statistic_line(sorted(group, key=lambda d: -abs(d.sigmas)))
        if groups[_MAX_STATISTICS:]:
            yield f"… and {count(len(groups) - _MAX_STATISTICS, 'further statistic')}"


def _chance(hits: int, runs: int, others: int, baseline: int) -> float:
    """Return the probability of so many hits, or more, among the runs if chance spreads them (Fisher's exact test)."""
    total = hits + others
    ways = sum(math.comb(runs, k) * math.comb(baseline, total - k) for k in range(hits, min(runs, total) + 1))
    return ways / math.comb(runs + baseline, total)


def _statistic_line(group: Sequence[Deviation]) -> str:
    name = group[0].statistic.replace("_", " ")
    parts = [(f"layer {d.layer} " if d.layer else "") + f"{d.words} since step {d.step}" for d in group[:_MAX_LAYERS]]
    more = f"; and in {count(len(group) - _MAX_LAYERS, 'more layer')}" if len(group) > _MAX_LAYERS else ""
    passed = "" if any(d.lasting for d in group) else "; later as in the baseline"
    return f"{name}: {'; '.join(parts)}{more}{passed}"


def _titled(title: str, lines: Iterator[str] | Sequence[str]) -> list[str]:
    body = [line for entry in lines for line in _wrap(entry, "  ")]
    return [f"{title}:", *body] if body else []


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        safe_line(text), _WIDTH, initial_indent=indent, subsequent_indent=indent + "  " * bool(indent),
        break_long_words=False,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    return number(sum(values) / len(values)) if values else "–"


def _range(values: Sequence[float]) -> str:
    if len(values) < 2:
        return _mean(values)
    return f"{_mean(values)} ({number(min(values))} to {number(max(values))}, {len(values)} runs)"
