"""The HTML form of a report: one page, no outside resource, every name escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from autotrainer._version import __version__
from autotrainer.records.findings import Finding, fold
from autotrainer.reporting.outcome import Outcome, Points
from autotrainer.reporting.text import DOUBT, TOLD, VERDICTS, brief, count, headline, number, repairs_of

__all__ = ["render"]

_WIDTH, _HEIGHT = 640.0, 200.0
_LOG_FROM = 50.0
"""Curves that span more than this factor are drawn on a logarithmic axis."""


def render(
    findings: Sequence[Finding], run: Mapping[str, Any], curves: Mapping[str, Points], outcome: Outcome | None
) -> str:
    """Return a report as an HTML page.

    Args:
        findings: Findings, ranked.
        run: Facts of the run, by name.
        curves: Named curves, each a sequence of (step or epoch, value).
        outcome: What a managed training came to; None for a watched or replayed run.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = number
    source = files("autotrainer.reporting").joinpath("templates/report.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        groups=[(root, after[:TOLD], after[TOLD:]) for root, after in fold(findings)],
        headline=headline(findings, run),
        facts={k.replace("_", " "): _fact(v) for k, v in run.items()},
        outcome=outcome,
        chart=_chart(curves),
        course=None if outcome is None else _course(outcome),
        brief=brief,
        doubt=DOUBT,
        verdicts=VERDICTS,
        repairs_of=repairs_of,
        version=__version__,
        count=count,
    )


def _course(outcome: Outcome) -> dict[str, object] | None:
    """Lay out the scores of the training as given and of all attempts over the work done until each had ended.

    Returns:
        ``points``: (x, y, kind, what) of each, in a box of `_WIDTH` × `_HEIGHT`, kind being ``given``, ``brief``,
        ``chosen`` or ``tried``; ``low`` and ``high``: ends of the score axis; ``last``: end of the work axis. None
        where there are no two finite scores.
    """
    work = max(0.0, outcome.cost - sum(a.cost for a in outcome.attempts))
    rows = [(work, outcome.baseline_score, "given", "as given")]
    for a in outcome.attempts:
        work += a.cost
        note = brief(a, outcome)
        kind = "chosen" if a.chosen else "brief" if note else "tried"
        said = f" ({note})" if note else ""
        score = math.nan if a.score is None else a.score
        rows.append((work, score, kind, f"{repairs_of(a)}{said}"))
    rows = [row for row in rows if math.isfinite(row[1])]
    if len(rows) < 2:
        return None
    low, high = min(score for _, score, _, _ in rows), max(score for _, score, _, _ in rows)
    points = [
        (
            f"{x / work * _WIDTH:.1f}",
            f"{(1 - (score - low) / (high - low) if high > low else 0.5) * _HEIGHT:.1f}",
            kind,
            f"{what}: {number(score)} after {x:.2f} trainings",
        )
        for x, score, kind, what in rows
    ]
    return {"points": points, "low": low, "high": high, "last": work}


def _fact(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _chart(curves: Mapping[str, Points]) -> dict[str, object] | None:
    """Lay the curves out in a box of `_WIDTH` × `_HEIGHT`; None where there is nothing to draw.

    Returns:
        ``lines``: (name, SVG points) pairs, a curve being broken where it is not finite; ``low`` and ``high``: ends
        of the value axis; ``last``: end of the step axis; ``log``: whether the value axis is logarithmic.
    """
    finite = [(x, y) for points in curves.values() for x, y in points if math.isfinite(y)]
    if len(finite) < 2:
        return None
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    last = max(x for x, _ in finite)
    log = low > 0 and high / low > _LOG_FROM

    def place(x: float, y: float) -> str:
        down, up, at = (math.log(v) for v in (low, high, y)) if log else (low, high, y)
        share = (at - down) / (up - down) if up > down else 0.5
        return f"{x / max(last, 1.0) * _WIDTH:.1f},{(1 - share) * _HEIGHT:.1f}"

    lines = []
    for name, points in curves.items():
        piece: list[str] = []
        for x, y in points:
            if math.isfinite(y):
                piece.append(place(x, y))
            elif piece:
                lines.append((name, " ".join(piece)))
                piece = []
        if piece:
            lines.append((name, " ".join(piece)))
    return {"lines": lines, "names": sorted({n for n, _ in lines}), "low": low, "high": high, "last": last, "log": log}
