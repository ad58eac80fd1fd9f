"""Table of faults of transformers by the component that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.detect.verdicts import Verdict, case_count
from benchmarks.reporting.tables import interval_share, table

__all__ = ["auroc", "by_component"]


def by_component(verdicts: Sequence[Verdict]) -> str:
    """Return how faults of transformers were found, by component and, of all, by what they cost; empty without any.

    ``costly``: a fault that costs at least 0.3 of accuracy or 0.2 nats. ``cause or component``: one of the first two
    findings names a true cause, or the component. The last line has the area under the ROC curve of faulty and
    healthy trainings, ranked by their gravest finding.
    """
    chosen = [v for v in verdicts if v.source == "transformers"]
    faulty, healthy = [v for v in chosen if v.faulty], [v for v in chosen if not v.faulty]
    if not chosen:
        return ""
    groups = {name: [v for v in faulty if v.component == name] for name in sorted({v.component for v in faulty})}
    groups["all"] = faulty
    groups["all that cost less"] = [v for v in faulty if not v.costly]
    head = [
        "component",
        "faulty",
        "error or warning",
        "error",
        "costly",
        "error on costly",
        "cause",
        "cause or component",
    ]
    lines = [[name, str(len(group)), *_shares(group)] for name, group in groups.items()]
    alarms = f"healthy: {len(healthy)}, errors {_share(healthy, [bool(v.errors) for v in healthy])}, "
    alarms += f"warnings {_share(healthy, [bool(v.warnings) for v in healthy])}; AUROC {auroc(chosen):.2f}"
    return f"{table([*head, 'early'], lines)}\n\nTransformers, {alarms}"


def auroc(verdicts: Iterable[Verdict]) -> float:
    """Return the probability that a faulty training has a graver finding than a healthy one; NaN without either.

    An error is graver than a warning, one of two errors the one with more confidence; ties count half.
    """
    scores: dict[bool, list[float]] = {True: [], False: []}
    for v in verdicts:
        scores[v.faulty].append(max(((p in v.errors) + confidence for p, confidence in v.roots), default=0.0))
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[True] for b in scores[False]]
    return sum(pairs) / len(pairs) if pairs else float("nan")


def _shares(group: Sequence[Verdict]) -> list[str]:
    costly = [v for v in group if v.costly]
    early = [v for v in group if v.early is not None]
    return [
        _share(group, [bool(v.errors or v.warnings) for v in group]),
        _share(group, [bool(v.errors) for v in group]),
        str(len(costly)),
        _share(costly, [bool(v.errors) for v in costly]),
        _share(group, [bool(v.named) for v in group]),
        _share(group, [bool(v.located) for v in group]),
        _share(early, [bool(v.early) for v in early]),
    ]


def _share(group: Sequence[Verdict], hits: Sequence[bool]) -> str:
    return interval_share(sum(hits), len(group), case_count(group))
