"""The HTML form of a report: one self-contained page in which every name is safe and escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from autotrainer._version import __version__
from autotrainer.records.findings import Finding, fold
from autotrainer.reporting import text
from autotrainer.reporting.comparison import Comparison
from autotrainer.reporting.outcome import Outcome, Points
from autotrainer.reporting.text import MAX_CONSEQUENCES, attempt_scope, number, repair_names
from autotrainer.safe_text import safe_line, safe_text

__all__ = ["render"]

_WIDTH, _HEIGHT = 640.0, 200.0
_LOG_FROM = 50.0
"""Curves that span more than this factor are drawn on a logarithmic axis."""


def render(
    findings: Sequence[Finding],
    run: Mapping[str, Any],
    curves: Mapping[str, Points],
    outcome: Outcome | None,
    comparison: Comparison | None = None,
) -> str:
    """Return a report as an HTML page.

    Args:
        findings: Findings, ranked.
        run: Facts of the run, by name.
        curves: Named curves, each a sequence of (step or epoch, value).
        outcome: The outcome of a managed training; None for a watched or replayed run.
        comparison: How the run differs from its baseline; None without one.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_safe
    )
    environment.filters |= {"number": number, "safe_text": safe_text}
    source = files("autotrainer.reporting").joinpath("templates/report.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        groups=[(root, rest[:MAX_CONSEQUENCES], rest[MAX_CONSEQUENCES:]) for root, rest in fold(findings)],
        headline=text.headline(findings, run),
        notes=run.get("notes") or (),
        facts={k.replace("_", " "): _fact(v) for k, v in run.items()},
        outcome=outcome,
        comparison=comparison,
        curves=_curve_chart(curves),
        scores=None if outcome is None else _score_chart(outcome),
        text=text,
        version=__version__,
    )


def _score_chart(outcome: Outcome) -> dict[str, object] | None:
    """Lay out the scores of the original training and of all attempts over the work done when each had ended.

    Returns:
        ``points``: (x, y, kind, label) of each, in a box of `_WIDTH` × `_HEIGHT`, kind being ``original``, ``short``,
        ``chosen`` or ``full``; ``low`` and ``high``: ends of the score axis; ``last``: end of the work axis. None
        if there are fewer than two finite scores.
    """
    work = max(0.0, outcome.cost - sum(a.cost for a in outcome.attempts))
    rows = [(work, outcome.baseline_score, "original", "original")]
    for a in outcome.attempts:
        work += a.cost
        scope = attempt_scope(a, outcome)
        kind = "chosen" if a.chosen else "short" if scope else "full"
        score = math.nan if a.score is None else a.score
        rows.append((work, score, kind, repair_names(a) + (f" ({scope})" if scope else "")))
    rows = [row for row in rows if math.isfinite(row[1])]
    if len(rows) < 2:
        return None
    low, high = min(score for _, score, _, _ in rows), max(score for _, score, _, _ in rows)
    points = [
        (
            f"{x / work * _WIDTH:.1f}",
            f"{(1 - (score - low) / (high - low) if high > low else 0.5) * _HEIGHT:.1f}",
            kind,
            f"{label}: {number(score)} after {x:.2f}× the cost of one training",
        )
        for x, score, kind, label in rows
    ]
    return {"points": points, "low": low, "high": high, "last": work}


def _safe(value: object) -> object:
    """Return a value as it is shown: text as one safe line, unless the template has escaped it already."""
    return safe_line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _fact(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _curve_chart(curves: Mapping[str, Points]) -> dict[str, object] | None:
    """Lay out curves in a box of `_WIDTH` × `_HEIGHT`.

    Returns:
        ``lines``: (name, SVG points) pairs, a curve being broken where it is not finite; ``low`` and ``high``: ends
        of the value axis; ``last``: end of the step axis; ``log``: whether the value axis is logarithmic. None if
        there are fewer than two finite points.
    """
    finite = [(x, y) for points in curves.values() for x, y in points if math.isfinite(y)]
    if len(finite) < 2:
        return None
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    last = max(x for x, _ in finite)
    log = low > 0 and high / low > _LOG_FROM

    def place(x: float, y: float) -> str:
        bottom, top, value = (math.log(v) for v in (low, high, y)) if log else (low, high, y)
        share = (value - bottom) / (top - bottom) if top > bottom else 0.5
        return f"{x / max(last, 1.0) * _WIDTH:.1f},{(1 - share) * _HEIGHT:.1f}"

    lines = []
    for name, points in curves.items():
        segment: list[str] = []
        for x, y in points:
            if math.isfinite(y):
                segment.append(place(x, y))
            elif segment:
                lines.append((name, " ".join(segment)))
                segment = []
        if segment:
            lines.append((name, " ".join(segment)))
    return {"lines": lines, "names": sorted({n for n, _ in lines}), "low": low, "high": high, "last": last, "log": log}
