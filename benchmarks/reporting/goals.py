"""Goals of the project with the measured value: met or missed, and whether beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.detect.verdicts import Verdict, case_count
from benchmarks.repair.outcomes import Outcome
from benchmarks.repair.tables import by_case, paired_gains
from benchmarks.reporting.intervals import bootstrap_mean, wilson
from benchmarks.reporting.tables import interval_share, number, table

__all__ = ["detect_goals", "repair_goals"]

_IR = {3.0: 0.75, 10.0: 0.9}
"""Mean clipped IR to reach, by budget."""

_BASE, _FIXED, _FIXED_SHARE = 3.0, 0.9, 0.65
"""Budget of the goal for fully repaired trainings, the ratio from which one counts, and the share to reach."""

_ANY = 1e-9
"""The smallest gain over an alternative."""


def detect_goals(verdicts: Sequence[Verdict]) -> str:
    """Return the goals of ``detect`` as Markdown; the first is for real programs only, the others for all."""
    faulty = [v for v in verdicts if v.faulty]
    healthy = [v for v in verdicts if not v.faulty]
    real = [v for v in faulty if v.source == "real"]
    lines = [
        _share("error found, real programs", real, lambda v: v.errors, least=0.95),
        _share("cause in first two", [v for v in faulty if v.named is not None], lambda v: v.named, least=0.85),
        _share("early", [v for v in faulty if v.early is not None], lambda v: v.early, least=0.8),
        _share("error on healthy", healthy, lambda v: v.errors, most=0.01),
        _share("warning on healthy", healthy, lambda v: v.warnings, most=0.05),
    ]
    return _table(lines)


def repair_goals(results: Sequence[Outcome]) -> str:
    """Return the goals of ``repair`` for one budget as Markdown: for ``fit``, on cases whose fix is affordable."""
    ours = [o for o in results if o.method == "fit" and o.fix_affordable]
    if not ours:
        return ""
    mean, low, high = bootstrap_mean(by_case(ours))
    lines = []
    least = _IR.get(ours[0].budget)
    if least is not None:
        lines.append(["clipped IR, mean", f"≥ {least}", f"{mean:.3f}", _verdict(mean, low, high, least=least)])
    at_least = sum(o.ratio >= _FIXED for o in ours), len(ours), len(by_case(ours))
    if ours[0].budget == _BASE:
        share = at_least[0] / at_least[1]
        verdict = _verdict(share, *wilson(share * at_least[2], at_least[2]), least=_FIXED_SHARE)
        lines.append([f"IR ≥ {_FIXED}", f"≥ {100 * _FIXED_SHARE:.0f} %", interval_share(*at_least), verdict])
    for method, (gain, low, high) in paired_gains(results).items():
        lines.append(
            [f"clipped IR above that of {method}", "> 0", f"{gain:+.3f}", _verdict(gain, low, high, least=_ANY)]
        )
    worse = sum(o.worse for o in results if o.method == "fit")
    lines.append(["got worse", "0", str(worse), _plain(worse == 0)])
    wins = [o.cost_to_win for o in ours if o.cost_to_win is not None and o.ratio > 0]
    if wins:
        for name, value, most in (("median", np.median(wins), 1.05), ("p90", np.quantile(wins, 0.9), 2.0)):
            lines.append([f"cost to win, {name}", f"≤ {most:g}", number(float(value)), _plain(value <= most)])
    return _table(lines)


def _share(
    name: str, verdicts: Sequence[Verdict], test: Callable[[Verdict], object], *, least: float = 0.0, most: float = 1.0
) -> list[str]:
    part, units = sum(bool(test(v)) for v in verdicts), case_count(verdicts)
    goal = f"≥ {100 * least:.0f} %" if least else f"≤ {100 * most:.0f} %"
    if not verdicts:
        return [name, goal, "–", "not measured"]
    share = part / len(verdicts)
    verdict = _verdict(share, *wilson(share * units, units), least=least, most=most)
    return [name, goal, interval_share(part, len(verdicts), units), verdict]


def _verdict(value: float, low: float, high: float, *, least: float = -np.inf, most: float = np.inf) -> str:
    """Return whether a goal is met, and whether the whole interval agrees."""
    met = least <= value <= most
    certain = (least <= low and high <= most) if met else (high < least or low > most)
    return _plain(met) + ("" if certain else ", not beyond noise")


def _plain(met: bool | np.bool_) -> str:
    return "met" if met else "**missed**"


def _table(lines: Sequence[Sequence[str]]) -> str:
    return table(["goal", "", "measured", "verdict"], lines)
