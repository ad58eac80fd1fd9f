"""``python -m benchmarks generalization``: detection on programs that the rules were made with, and on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmarks.cases.sources import CALIBRATION_SEEDS, RESERVED_SEEDS, is_unseen
from benchmarks.detect.verdicts import Verdict, judge_all
from benchmarks.execution.pool import Row
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import by_framework
from benchmarks.generator.families.examples import EXAMPLES
from benchmarks.generator.families.registry import OPEN
from benchmarks.reporting.intervals import difference
from benchmarks.reporting.tables import interval_share, table

__all__ = ["GROUPS", "generalization", "group_of"]

GROUPS = {
    "real programs and zoo": False,
    "real programs, later sets": False,
    f"generated, seeds {', '.join(map(str, CALIBRATION_SEEDS))}": False,
    "open families": False,
    "real programs, reserved": True,
    "generated, other seeds": True,
    f"open families, seeds from {RESERVED_SEEDS}": True,
    "reserved families": True,
    "official examples": True,
    "transformers": False,
    f"transformers, seeds from {RESERVED_SEEDS}": True,
}
"""Groups of cases in the order of the table, with whether they are unseen: no threshold was chosen on them."""

_HEAD = ["cases", "", "faulty", "error found", "cause in first two", "early", "healthy", "error", "warning"]

_MEASURES: Sequence[tuple[bool, Callable[[Verdict], object | None]]] = (
    (True, lambda v: bool(v.errors)),
    (True, lambda v: v.named),
    (True, lambda v: v.early),
    (False, lambda v: bool(v.errors)),
    (False, lambda v: bool(v.warnings)),
)
"""For each share in the table: whether it is one of the faulty trainings, and its test; None does not count."""


def group_of(verdict: Verdict) -> str:
    """Return the group of a training, one of `GROUPS`; empty for a case file of somebody else."""
    seen_group, unseen_group = {
        "real": (0, 0),
        "zoo": (0, 0),
        "real2": (1, 1),
        "world": (1, 1),
        "world_hidden": (4, 4),
        "generated": (2, 5),
        "families": (3, 6),
        "unseen": (7, 7),
        "healthy": (3, 6),
        "transformers": (9, 10),
    }.get(verdict.source, (-1, -1))
    if seen_group < 0:
        return ""
    index = unseen_group if is_unseen(verdict.source, verdict.case) else seen_group
    if verdict.source == "healthy" and index == 6:
        index = 8 if verdict.family in EXAMPLES else 6 if verdict.family in OPEN else 7
    return list(GROUPS)[index]


def generalization(rows: Sequence[Row]) -> str:
    """Return the table of each framework as Markdown.

    Args:
        rows: Rows of ``detect``.
    """
    parts = []
    for framework, of_framework in by_framework(rows).items():
        verdicts, _ = judge_all(of_framework, framework)
        parts += [f"### {framework}", provenance_line(of_framework), _table(verdicts)]
    return "\n\n".join(parts)


def _table(verdicts: Sequence[Verdict]) -> str:
    lines = []
    for group, unseen in GROUPS.items():
        chosen = [v for v in verdicts if group_of(v) == group]
        if chosen:
            lines.append(_line(group, "unseen" if unseen else "seen", chosen))
    seen = [v for v in verdicts if group_of(v) and not GROUPS[group_of(v)]]
    unseen_ones = [v for v in verdicts if group_of(v) and GROUPS[group_of(v)]]
    if seen and unseen_ones:
        lines += [_line("**all**", "seen", seen), _line("**all**", "unseen", unseen_ones)]
        lines.append(["seen − unseen", "", "", *_differences(seen, unseen_ones)])
    return table(_HEAD, lines)


def _line(group: str, kind: str, verdicts: Sequence[Verdict]) -> list[str]:
    cells = [interval_share(*_count(verdicts, i)) for i in range(len(_MEASURES))]
    faulty = sum(v.faulty for v in verdicts)
    return [group, kind, str(faulty), *cells[:3], str(len(verdicts) - faulty), *cells[3:]]


def _differences(seen: Sequence[Verdict], unseen: Sequence[Verdict]) -> list[str]:
    cells = []
    for i in range(len(_MEASURES)):
        middle, low, high = difference(*_count(seen, i), *_count(unseen, i))
        cells.append("–" if math.isnan(middle) else f"{middle:+.2f} ({low:+.2f} – {high:+.2f})")
    return [*cells[:3], "", *cells[3:]]


def _count(verdicts: Sequence[Verdict], measure: int) -> tuple[int, int]:
    faulty, test = _MEASURES[measure]
    results = [test(v) for v in verdicts if v.faulty == faulty]
    counted = [bool(result) for result in results if result is not None]
    return sum(counted), len(counted)
