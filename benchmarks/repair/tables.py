"""Tables of ``repair``: methods side by side, the gain of ``fit`` over each alternative, and each case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.repair.outcomes import ORIGINAL, Outcome
from benchmarks.repair.run import METHODS
from benchmarks.reporting.intervals import bootstrap_mean, signed_rank
from benchmarks.reporting.tables import interval_share, listed, number, table

__all__ = ["SEEDS", "by_case", "by_method", "each_case", "gains", "paired_gains"]

SEEDS = 5
"""Seeds that a case needs for a significance test."""


def by_method(results: Sequence[Outcome]) -> str:
    """Return ratios, losses and costs by group of cases and method, for one budget; intervals over cases and seeds."""
    affordable = [o for o in results if o.fix_affordable]
    sources = sorted({o.source for o in affordable})
    groups = [(source, [o for o in affordable if o.source == source]) for source in sources]
    groups += [("all", affordable)] * (len(sources) > 1)
    groups.append(("fix beyond the budget", [o for o in results if not o.fix_affordable]))
    head = ["cases", "method", "n", "clipped IR, mean", "IR ≥ 0.9", "IR > 0", "repaired, p < 0.05", "got worse"]
    head += ["cost to win, median", "p90", "largest cost"]
    lines = [_line(name, method, selected) for name, group in groups for method, selected in _methods(group).items()]
    return table(head, lines)


def gains(results: Sequence[Outcome]) -> str:
    """Return the gain of ``fit`` over each alternative on the same cases and seeds, with intervals."""
    lines = [
        f"{method}: {mean:+.3f} ({low:+.3f} to {high:+.3f})"
        for method, (mean, low, high) in paired_gains(results).items()
    ]
    return "\n".join(listed("Clipped IR of fit minus that of", lines)).strip()


def paired_gains(results: Sequence[Outcome]) -> dict[str, tuple[float, float, float]]:
    """Return the mean of the clipped IR of ``fit`` less that of each alternative, and its 95 % interval.

    The pairs are those of cases and seeds whose fix the budget covers; the bootstrap is over cases and their seeds.
    """
    methods = _methods([o for o in results if o.fix_affordable and o.method != ORIGINAL])
    ours = {(o.case, o.seed): o.ratio for o in methods.pop("fit", [])}
    paired = {
        method: _grouped((o.case, ours[o.case, o.seed] - o.ratio) for o in selected if (o.case, o.seed) in ours)
        for method, selected in methods.items()
    }
    return {method: bootstrap_mean(differences) for method, differences in paired.items() if differences}


def each_case(results: Sequence[Outcome]) -> str:
    """Return one line per case and seed: the result of ``fit`` (or the first method), and the alternatives' ratios."""
    ratios = {(o.method, o.case, o.seed): o.ratio for o in results}
    methods = [m for m in METHODS if any(o.method == m for o in results)]
    others = methods[1:]
    shown = [o for o in results if o.method == (methods[0] if methods else ORIGINAL)]
    head = ["case", "original", "repaired", "fixed", "IR", *(f"IR, {m}" for m in others), "status", "cost", "to win"]
    head += ["fix cost", "findings", "changes"]
    lines = [
        [
            f"{o.case} (seed {o.seed})",
            number(o.original, 3),
            number(o.repaired, 3),
            number(o.fixed, 3),
            number(o.ratio),
            *(number(ratios.get((method, o.case, o.seed))) for method in others),
            "crashed" if o.error else o.status,
            number(o.cost),
            number(o.cost_to_win),
            number(o.fix_cost),
            ", ".join(o.findings[:3]),
            (o.plan or "–").replace("|", "/")[:160],
        ]
        for o in shown
    ]
    return table(head, lines)


def by_case(results: Iterable[Outcome]) -> dict[str, list[float]]:
    """Return clipped ratios of the seeds, by case."""
    return _grouped((o.case, o.ratio) for o in results)


def _grouped(pairs: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    grouped: dict[str, list[float]] = {}
    for case, value in pairs:
        grouped.setdefault(case, []).append(value)
    return grouped


def _methods(results: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    by_name = {method: [o for o in results if o.method == method] for method in (*METHODS, ORIGINAL)}
    return {method: outcomes for method, outcomes in by_name.items() if outcomes}


def _line(name: str, method: str, results: Sequence[Outcome]) -> list[str]:
    ratios = by_case(results)
    wins = [o.cost_to_win for o in results if o.cost_to_win is not None and o.ratio > 0]
    mean, low, high = bootstrap_mean(ratios)
    return [
        name,
        method,
        str(len(results)) if len(results) == len(ratios) else f"{len(results)} of {len(ratios)} cases",
        f"{mean:.3f} ({low:.3f}–{high:.3f})",
        interval_share(sum(o.ratio >= 0.9 for o in results), len(results), len(ratios)),
        interval_share(sum(o.ratio > 0 for o in results), len(results), len(ratios)),
        _repaired(results),
        str(sum(o.worse for o in results)),
        number(float(np.median(wins))) if wins else "–",
        number(float(np.quantile(wins, 0.9))) if wins else "–",
        number(max((o.cost for o in results if o.error is None), default=None)),
    ]


def _repaired(results: Sequence[Outcome]) -> str:
    """Return how many cases gained significantly over their seeds (Wilcoxon's test); "–" with too few seeds."""
    seeds: dict[str, list[float]] = {}
    for o in results:
        seeds.setdefault(o.case, []).append(o.repaired - o.original if o.plan is not None else 0.0)
    tested = [gains for gains in seeds.values() if len(gains) >= SEEDS]
    return interval_share(sum(signed_rank(gains) < 0.05 for gains in tested), len(tested))
