"""``python -m benchmarks compare A B``: what changed between two files of rows, beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotrainer.errors import ConfigError
from benchmarks.detect.verdicts import Verdict, judge_all
from benchmarks.execution.pool import Row
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import by_framework
from benchmarks.repair.outcomes import Outcome, outcomes
from benchmarks.reporting.intervals import bootstrap_mean, mcnemar
from benchmarks.reporting.step_ratios import compare_step_ratios, step_ratios
from benchmarks.reporting.suites import read_latest, suite_of
from benchmarks.reporting.tables import listed, table

__all__ = ["compare"]

_LISTED_CHANGE = 0.1
"""Change of a clipped IR above which a case is listed by name."""

_Test = tuple[str, bool, Callable[[Verdict], bool | None]]

_TESTS: tuple[_Test, ...] = (
    ("error found", True, lambda v: bool(v.errors) if v.faulty else None),
    ("cause in first two", True, lambda v: v.named),
    ("early", True, lambda v: v.early),
    ("error on healthy", False, lambda v: None if v.faulty else bool(v.errors)),
    ("error ever on healthy", False, lambda v: None if v.faulty else bool(v.raised)),
    ("warning on healthy", False, lambda v: None if v.faulty else bool(v.warnings)),
)
"""Compared properties of a training: name, whether more is better, and the test (None: does not apply)."""


def compare(before: Path, after: Path) -> str:
    """Return the changes as Markdown: paired over cases and seeds, with gains and losses by name.

    Shares are compared by McNemar's exact test over cases, ratios by a bootstrap over cases and seeds, step times by
    their confidence intervals.

    Raises:
        ConfigError: If a file is missing or empty, or the two are of different benchmarks or share no training.
    """
    rows = [read_latest(path) for path in (before, after)]
    suites = [suite_of(side) for side in rows]
    if suites[0] != suites[1]:
        raise ConfigError(f"{before} holds rows of {suites[0]}, {after} of {suites[1]}: nothing to compare")
    parts = [f"A: {before.name} · {provenance_line(rows[0])}", f"B: {after.name} · {provenance_line(rows[1])}"]
    changed = _changed(*rows)
    rows = [[row for row in side if _training(row) not in changed] for side in rows]
    if suites[0] == "detect":
        parts.append(_detect(*rows))
    elif suites[0] == "repair":
        parts.append(_repair(*rows))
    elif suites[0] == "overhead":
        ratios = [step_ratios(side) for side in rows]
        if not set(ratios[0]) & set(ratios[1]):
            raise ConfigError("the two files share no framework, model and setting")
        parts.append(compare_step_ratios(*ratios))
    else:
        raise ConfigError(f"rows of {suites[0]} can't be compared: only those of detect, repair and overhead can")
    names = [f"{case} (seed {seed}, {framework})" for framework, case, seed in changed]
    return "\n".join(["\n\n".join(parts), *listed("Not compared, since the case changed from A to B", names)])


def _training(row: Row) -> tuple[Any, ...]:
    return tuple(row["task"].get(part) for part in ("framework", "case", "seed"))


def _changed(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Return the trainings whose recipe differs between the two files; older rows lack it and count as unchanged."""
    recipes = [{_training(row): row["task"].get("recipe") for row in rows} for rows in (before, after)]
    return [
        training for training, recipe in recipes[0].items() if recipe and (recipes[1].get(training) or recipe) != recipe
    ]


def _detect(before: Sequence[Row], after: Sequence[Row]) -> str:
    a, b = _verdicts(before), _verdicts(after)
    shared = [key for key in a if key in b and a[key].faulty == b[key].faulty]
    if not shared:
        raise ConfigError("the two files share no training with the same state, faulty or healthy")
    lines, names = [], []
    for measure, more_is_better, test in _TESTS:
        results = [(key, test(a[key]), test(b[key])) for key in shared]
        pairs = [(key, old, new) for key, old, new in results if old is not None and new is not None]
        if not pairs:
            continue
        gained = [key for key, old, new in pairs if new and not old]
        lost = [key for key, old, new in pairs if old and not new]
        p = _p_value([(key[1], bool(new) - bool(old)) for key, old, new in pairs])
        better = (len(gained) > len(lost)) == more_is_better
        verdict = "within noise" if p >= 0.05 else ("better" if better else "worse")
        shares = [f"{sum(bool(pair[side]) for pair in pairs)}/{len(pairs)}" for side in (1, 2)]
        lines.append([measure, *shares, str(len(gained)), str(len(lost)), f"{p:.3f}", verdict])
        names += listed(f"{measure}: new", [_name(key) for key in gained])
        names += listed(f"{measure}: no longer", [_name(key) for key in lost])
    head = ["measure", "A", "B", "new", "no longer", "p", "verdict"]
    differing = [_name(key) for key in a if key in b and key not in shared]
    names += listed("Not compared, since only one of the two scores shows a fault", differing)
    names += listed("Only in A", [_name(key) for key in a if key not in b])
    names += listed("Only in B", [_name(key) for key in b if key not in a])
    return "\n".join([table(head, lines), *names])


def _verdicts(rows: Sequence[Row]) -> dict[tuple[str, str, int], Verdict]:
    return {
        (v.framework, v.case, v.seed): v
        for name, of_framework in by_framework(rows).items()
        for v in judge_all(of_framework, name)[0]
    }


def _p_value(changes: Sequence[tuple[str, int]]) -> float:
    """Return McNemar's p over cases: seeds and frameworks of one case are not independent trials."""
    net: dict[str, int] = {}
    for case, change in changes:
        net[case] = net.get(case, 0) + change
    return mcnemar(sum(n < 0 for n in net.values()), sum(n > 0 for n in net.values()))


def _repair(before: Sequence[Row], after: Sequence[Row]) -> str:
    old, new = _outcomes(before), _outcomes(after)
    shared = [key for key in old if key in new]
    if not shared:
        raise ConfigError("the two files share no case, method and budget")
    lines, names = [], []
    for kind in dict.fromkeys(key[:3] for key in shared):
        pairs = {key: (old[key], new[key]) for key in shared if key[:3] == kind}
        lines.append(_repair_line(kind, pairs))
        changes = {key: b.ratio - a.ratio for key, (a, b) in pairs.items()}
        label = f"{kind[1]}, budget {kind[2]:g}, {kind[0]}"
        for title, keys in (
            ("gained", [key for key, change in changes.items() if change >= _LISTED_CHANGE]),
            ("lost", [key for key, change in changes.items() if change <= -_LISTED_CHANGE]),
        ):
            cases = [f"{k[3]} (seed {k[4]}): IR {pairs[k][0].ratio:.2f} → {pairs[k][1].ratio:.2f}" for k in keys]
            names += listed(f"{label}: {title}", cases)
        names += listed(
            f"{label}: newly worse than the original", [k[3] for k, (a, b) in pairs.items() if b.worse and not a.worse]
        )
    head = ["framework", "method", "budget", "n", "IR, A", "IR, B", "B − A", "95 % interval", "verdict"]
    head += ["got worse, A", "B", "cost to win, A", "B"]
    return "\n".join([table(head, lines), *names])


_Kind = tuple[str, str, float]
_Key = tuple[str, str, float, str, int]


def _outcomes(rows: Sequence[Row]) -> dict[_Key, Outcome]:
    return {
        (o.framework, o.method, o.budget, o.case, o.seed): o
        for name, of_framework in by_framework(rows).items()
        for o in outcomes(of_framework, name)[0]
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
    costs = [f"{np.median(side):.2f}" if side else "–" for side in wins]
    framework, method, budget = kind
    change = [f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}", verdict]
    return [framework, method, f"{budget:g}", str(len(pairs)), *ratios, *change, *worse, *costs]


def _name(key: tuple[str, str, int]) -> str:
    framework, case, seed = key
    return f"{case} (seed {seed}, {framework})"
