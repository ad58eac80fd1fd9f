"""``python -m benchmarks compare A B``: what changed from one file of rows to another, beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotrainer.errors import ConfigError
from benchmarks.detect.verdicts import Verdict, judge_all
from benchmarks.execution.pool import Row
from benchmarks.execution.provenance import told
from benchmarks.execution.runs import by_framework
from benchmarks.repair.outcomes import Outcome, outcomes
from benchmarks.reporting.intervals import bootstrap_mean, mcnemar
from benchmarks.reporting.step_ratios import compared, step_ratios
from benchmarks.reporting.suites import read_last, suite_of
from benchmarks.reporting.tables import listed, table

__all__ = ["compare"]

_MOVED = 0.1
"""Change of a clipped IR from which on a case is told by name."""

_Test = tuple[str, bool, Callable[[Verdict], bool | None]]

_TESTS: tuple[_Test, ...] = (
    ("error found", True, lambda v: bool(v.errors) if v.faulty else None),
    ("cause in first two", True, lambda v: v.named),
    ("early", True, lambda v: v.early),
    ("error on healthy", False, lambda v: None if v.faulty else bool(v.errors)),
    ("error ever on healthy", False, lambda v: None if v.faulty else bool(v.raised)),
    ("warning on healthy", False, lambda v: None if v.faulty else bool(v.warnings)),
)
"""What is compared of a training: its name, whether more is better, and the question (None: does not apply)."""


def compare(before: Path, after: Path) -> str:
    """Return what changed, as Markdown: paired over cases and seeds, with new misses and new finds by name.

    Shares are compared by McNemar's exact test over cases, ratios by a bootstrap over cases and seeds, step times by
    their intervals.

    Raises:
        ConfigError: If a file is missing, empty, of another benchmark, or shares no training with the other.
    """
    rows = [read_last(path) for path in (before, after)]
    suites = [suite_of(of) for of in rows]
    if suites[0] != suites[1]:
        raise ConfigError(f"{before} holds rows of {suites[0]}, {after} of {suites[1]}: nothing to compare")
    parts = [f"A: {before.name} · {told(rows[0])}", f"B: {after.name} · {told(rows[1])}"]
    changed = _changed(*rows)
    rows = [[row for row in of if _training(row) not in changed] for of in rows]
    if suites[0] == "detect":
        parts.append(_detect(*rows))
    elif suites[0] == "repair":
        parts.append(_repair(*rows))
    elif suites[0] == "overhead":
        ratios = [step_ratios(of) for of in rows]
        if not set(ratios[0]) & set(ratios[1]):
            raise ConfigError("the two files share no framework, model and setting")
        parts.append(compared(*ratios))
    else:
        raise ConfigError(f"rows of {suites[0]} can't be compared: those of detect, repair and overhead can")
    names = [f"{case} (seed {seed}, {framework})" for framework, case, seed in changed]
    return "\n".join(["\n\n".join(parts), *listed("Changed from A to B, so not compared", names)])


def _training(row: Row) -> tuple[Any, ...]:
    return tuple(row["task"].get(part) for part in ("framework", "case", "seed"))


def _changed(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Return the trainings whose case has another recipe in the two files; older rows don't tell theirs."""
    recipes = [{_training(row): row["task"].get("recipe") for row in of} for of in (before, after)]
    return [one for one, recipe in recipes[0].items() if recipe and (recipes[1].get(one) or recipe) != recipe]


def _detect(before: Sequence[Row], after: Sequence[Row]) -> str:
    found = [
        {(v.framework, v.case, v.seed): v for name, of in by_framework(rows).items() for v in judge_all(of, name)[0]}
        for rows in (before, after)
    ]
    shared = [key for key in found[0] if key in found[1] and found[0][key].faulty == found[1][key].faulty]
    if not shared:
        raise ConfigError("the two files share no training that is judged alike")
    lines, names = [], []
    for what, good, test in _TESTS:
        pairs = [(key, test(found[0][key]), test(found[1][key])) for key in shared]
        asked = [(key, a, b) for key, a, b in pairs if a is not None and b is not None]
        if not asked:
            continue
        gained = [key for key, a, b in asked if b and not a]
        lost = [key for key, a, b in asked if a and not b]
        chance = _chance([(key[1], bool(b) - bool(a)) for key, a, b in asked])
        better = (len(gained) > len(lost)) == good
        beyond = "within noise" if chance >= 0.05 else ("better" if better else "worse")
        shares = [f"{sum(map(bool, of))}/{len(asked)}" for of in zip(*((a, b) for _, a, b in asked), strict=True)]
        lines.append([what, *shares, str(len(gained)), str(len(lost)), f"{chance:.3f}", beyond])
        names += listed(f"{what}: new", [_name(key) for key in gained])
        names += listed(f"{what}: no longer", [_name(key) for key in lost])
    head = ["what", "A", "B", "new", "no longer", "p", "verdict"]
    apart = [_name(key) for key in found[0] if key in found[1] and key not in shared]
    names += listed("Judged otherwise by their scores, so not compared", apart)
    names += listed("In A alone", [_name(key) for key in found[0] if key not in found[1]])
    names += listed("In B alone", [_name(key) for key in found[1] if key not in found[0]])
    return "\n".join([table(head, lines), *names])


def _chance(changes: Sequence[tuple[str, int]]) -> float:
    """Return McNemar's p, the case being the unit: its seeds and frameworks are no trials of their own."""
    net: dict[str, int] = {}
    for case, change in changes:
        net[case] = net.get(case, 0) + change
    return mcnemar(sum(n < 0 for n in net.values()), sum(n > 0 for n in net.values()))


def _repair(before: Sequence[Row], after: Sequence[Row]) -> str:
    found = [_outcomes(rows) for rows in (before, after)]
    shared = [key for key in found[0] if key in found[1]]
    if not shared:
        raise ConfigError("the two files share no case, method and budget")
    lines, names = [], []
    for kind in dict.fromkeys(key[:3] for key in shared):
        pairs = {key: (found[0][key], found[1][key]) for key in shared if key[:3] == kind}
        lines.append(_repair_line(kind, pairs))
        moved = {key: b.ratio - a.ratio for key, (a, b) in pairs.items()}
        what = f"{kind[1]}, budget {kind[2]:g}, {kind[0]}"
        for title, of in (
            ("gained", {k: d for k, d in moved.items() if d >= _MOVED}),
            ("lost", {k: d for k, d in moved.items() if d <= -_MOVED}),
        ):
            told_of = [f"{k[3]} (seed {k[4]}): IR {pairs[k][0].ratio:.2f} → {pairs[k][1].ratio:.2f}" for k in of]
            names += listed(f"{what}: {title}", told_of)
        names += listed(
            f"{what}: newly got worse than as given", [k[3] for k, (a, b) in pairs.items() if b.worse and not a.worse]
        )
    head = ["framework", "method", "budget", "n", "IR, A", "IR, B", "B − A", "95 % interval", "verdict"]
    head += ["got worse, A", "B", "cost to win, A", "B"]
    return "\n".join([table(head, lines), *names])


_Kind = tuple[str, str, float]
_Key = tuple[str, str, float, str, int]


def _outcomes(rows: Sequence[Row]) -> dict[_Key, Outcome]:
    return {
        (o.framework, o.method, o.budget, o.case, o.seed): o
        for name, of in by_framework(rows).items()
        for o in outcomes(of, name)[0]
    }


def _repair_line(kind: _Kind, pairs: Mapping[_Key, tuple[Outcome, Outcome]]) -> list[str]:
    changes: dict[str, list[float]] = {}
    for key, (a, b) in pairs.items():
        changes.setdefault(key[3], []).append(b.ratio - a.ratio)
    mean, low, high = bootstrap_mean(changes)
    verdict = "better" if low > 0 else "worse" if high < 0 else "within noise"
    sides = list(zip(*pairs.values(), strict=True))
    ratios = [f"{np.mean([o.ratio for o in side]):.3f}" for side in sides]
    worse = [str(sum(o.worse for o in side)) for side in sides]
    wins = [[o.cost_to_win for o in side if o.cost_to_win is not None] for side in sides]
    costs = [f"{np.median(of):.2f}" if of else "–" for of in wins]
    framework, method, budget = kind
    change = [f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}", verdict]
    return [framework, method, f"{budget:g}", str(len(pairs)), *ratios, *change, *worse, *costs]


def _name(key: tuple[str, str, int]) -> str:
    framework, case, seed = key
    return f"{case} (seed {seed}, {framework})"
