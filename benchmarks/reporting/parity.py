"""Parity of frameworks: the same case should get the same verdict in PyTorch and in Keras."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detect.verdicts import Verdict
from benchmarks.reporting.tables import interval_share, listed

__all__ = ["agreement", "parity"]

_SCORE_GAP = 0.05
"""Two trainings whose test scores differ by more than this went differently."""


def agreement(verdicts: Sequence[Verdict]) -> tuple[list[tuple[Verdict, Verdict]], list[tuple[Verdict, Verdict]]]:
    """Return the pairs of one training in two frameworks, and those of them with different verdicts.

    A pair agrees if both trainings have an error at the end, or neither has. A training that is faulty in one framework
    and healthy in the other is not a pair: its verdicts should differ.
    """
    by_training: dict[tuple[str, int], list[Verdict]] = {}
    for v in verdicts:
        by_training.setdefault((v.case, v.seed), []).append(v)
    pairs = [
        (group[0], group[1]) for group in by_training.values() if len(group) == 2 and group[0].faulty == group[1].faulty
    ]
    return pairs, [(a, b) for a, b in pairs if bool(a.errors) != bool(b.errors)]


def parity(verdicts: Sequence[Verdict]) -> str:
    """Return the agreement of two frameworks as Markdown, with the trainings that differ and why."""
    pairs, differing = agreement(verdicts)
    faulty = [(a, b) for a, b in pairs if a.faulty]
    parts = ["### The same verdict in both frameworks"]
    for name, group in (("all", pairs), ("faulty", faulty), ("healthy", [p for p in pairs if p not in faulty])):
        alike = sum(pair not in differing for pair in group)
        goal = " (goal: ≥ 90 %)" if name == "all" else ""
        parts.append(f"* {name}: {interval_share(alike, len(group), len({a.case for a, _ in group}))}{goal}")
    causes = [(a, b) for a, b in faulty if a.named is not None and b.named is not None and a.errors and b.errors]
    alike = sum(a.named == b.named for a, b in causes)
    parts.append(f"* cause named in both or in neither: {interval_share(alike, len(causes))}")
    text = [parts[0], "", *parts[1:]]
    text += listed("Different verdicts", [_reason(a, b) for a, b in differing])
    text += listed("Not a pair, since faulty in one framework and healthy in the other", _mixed(verdicts))
    return "\n".join(text)


def _reason(a: Verdict, b: Verdict) -> str:
    detected, missed = (a, b) if a.errors else (b, a)
    reasons = [
        f"{a.case} (seed {a.seed}): {', '.join(detected.errors)} only in {detected.framework}",
        f"scores {detected.score:.3f} and {missed.score:.3f}",
    ]
    if abs(a.score - b.score) > _SCORE_GAP:
        reasons.append("the trainings went differently")
    elif missed.raised:
        reasons.append(f"raised and resolved in {missed.framework}: {', '.join(missed.raised)}")
    elif set(missed.warnings) & set(detected.errors):
        reasons.append(f"a warning in {missed.framework}")
    elif missed.warnings:
        reasons.append(f"only warnings of other problems in {missed.framework}: {', '.join(missed.warnings)}")
    else:
        reasons.append(f"no finding in {missed.framework}")
    return "; ".join(reasons)


def _mixed(verdicts: Sequence[Verdict]) -> list[str]:
    scores: dict[tuple[str, int], dict[str, Verdict]] = {}
    for v in verdicts:
        scores.setdefault((v.case, v.seed), {})[v.framework] = v
    return [
        f"{case} (seed {seed}): " + ", ".join(f"{v.score:.3f} in {framework}" for framework, v in group.items())
        for (case, seed), group in scores.items()
        if len({v.faulty for v in group.values()}) > 1
    ]
