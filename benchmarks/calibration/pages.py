"""What the page of each rule shows of its calibration: one small file, which is installed beside the rules."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.calibration.replay import Axis
from benchmarks.calibration.scoring import Judged, Validation, counts, cross_validate
from benchmarks.execution.files import write

__all__ = ["calibration", "save_page"]

_COUNTED = ("hits", "alarms", "beside")


def save_page(judged: Sequence[Judged], wanted: Sequence[Axis], made: Mapping[str, Any], path: Path) -> str:
    """Write the file that ``autotrainer explain`` reads, a line for each rule.

    Args:
        judged: The trainings.
        wanted: The thresholds.
        made: What they were made from; see `calibration`.
        path: The file.

    Returns:
        In words what was written.

    Raises:
        ConfigError: If it can't be written.
    """
    told = calibration(judged, wanted, made)
    lines = [f"{json.dumps(problem)}: {json.dumps(rule, allow_nan=False)}" for problem, rule in told["rules"].items()]
    text = f'{{"made": {json.dumps(told["made"])},\n"rules": {{\n' + ",\n".join(lines) + "\n}}\n"
    write(path, text)
    return f"Pages of {len(lines)} rules: {path.name}"


def calibration(judged: Sequence[Judged], wanted: Sequence[Axis], made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the pages show, plain values.

    Args:
        judged: The trainings.
        wanted: The thresholds.
        made: ``cases``, ``sources``, ``frameworks``, ``seeds``, ``commit``.

    Returns:
        ``made``, with the numbers of ``trainings`` and of ``healthy`` ones. ``rules`` by problem: ``bar`` (a name of
        `scoring.BARS`: what counts as found), ``cause`` (trainings whose cause the rule names), ``usual`` (at the
        defaults: ``hits``, ``alarms``, ``beside``), ``still`` (thresholds that change neither hits nor alarms),
        and ``thresholds`` by name: ``default``, ``values``, for each ``hits``, ``alarms`` and ``beside``, and what
        cross-validation by ``data`` and ``kind`` ``chose``: least and greatest value, ``f1`` of the trainings left out
        with it, and that of the default on the same.
    """
    healthy = sum(not one.faulty for one in judged)
    by_rule: dict[str, list[Axis]] = {}
    for axis in wanted:
        by_rule.setdefault(axis.problem, []).append(axis)
    return {
        "made": {**made, "trainings": len(judged), "healthy": healthy},
        "rules": {problem: _rule(judged, of) for problem, of in by_rule.items()},
    }


def _rule(judged: Sequence[Judged], of: Sequence[Axis]) -> dict[str, Any]:
    """Return what the page of one rule shows; one that raises no error anywhere is shown by its warnings."""
    errors = any("error" in one.levels[axis.name] for one in judged for axis in of)
    bar = "error" if errors else "warning"
    usual = counts(judged, of[0], bar)[of[0].values.index(of[0].default)]
    told = {axis.threshold: _threshold(judged, axis, bar) for axis in of if axis.threshold}
    moving = {name: lines for name, lines in told.items() if any(len(set(lines[what])) > 1 for what in _COUNTED[:2])}
    return {
        "bar": bar,
        "cause": usual.hits + usual.misses,
        "usual": {name: getattr(usual, name) for name in _COUNTED},
        "thresholds": moving,
        "still": [name for name in told if name not in moving],
    }


def _threshold(judged: Sequence[Judged], axis: Axis, bar: str) -> dict[str, Any]:
    found = counts(judged, axis, bar)
    return {
        "default": axis.default,
        "values": [value if value == axis.default else _short(value) for value in axis.values],
        **{name: [getattr(one, name) for one in found] for name in _COUNTED},
        "chose": {by: _chosen(cross_validate(judged, axis, by, bar)) for by in ("data", "kind")},
    }


def _chosen(told: Validation) -> dict[str, Any]:
    ends = [_short(min(told.chosen)), _short(max(told.chosen))]
    return {"groups": told.groups, "values": ends, "f1": _known(told.held.f1), "default": _known(told.default.f1)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
