"""The calibration shown on the page of each rule: one small file, installed with the rules."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.calibration.replay import Axis
from benchmarks.calibration.scoring import LabelledRun, Validation, counts, cross_validate
from benchmarks.execution.files import write

__all__ = ["calibration", "save_page"]

_COUNTED = ("hits", "alarms", "beside")


def save_page(labelled: Sequence[LabelledRun], axes: Sequence[Axis], provenance: Mapping[str, Any], path: Path) -> str:
    """Write the file that ``autotrainer explain`` reads, one line per rule.

    Args:
        labelled: The labelled trainings.
        axes: The thresholds.
        provenance: Where they come from; see `calibration`.
        path: The file.

    Returns:
        A message with the number of pages written.

    Raises:
        ConfigError: If it can't be written.
    """
    content = calibration(labelled, axes, provenance)
    lines = [
        f"{json.dumps(problem)}: {json.dumps(rule, allow_nan=False)}" for problem, rule in content["rules"].items()
    ]
    text = f'{{"made": {json.dumps(content["made"])},\n"rules": {{\n' + ",\n".join(lines) + "\n}}\n"
    write(path, text)
    return f"Pages of {len(lines)} rules: {path.name}"


def calibration(labelled: Sequence[LabelledRun], axes: Sequence[Axis], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the pages as plain values.

    Args:
        labelled: The labelled trainings.
        axes: The thresholds.
        provenance: ``cases``, ``sources``, ``frameworks``, ``seeds``, ``commit``.

    Returns:
        ``made``, with the numbers of ``trainings`` and of ``healthy`` ones. ``rules`` by problem: ``bar`` (a name of
        `scoring.BARS`: what counts as a detection), ``cause`` (trainings whose cause the rule names), ``usual`` (at the
        defaults: ``hits``, ``alarms``, ``beside``), ``still`` (thresholds that change neither hits nor alarms),
        and ``thresholds`` by name: ``default``, ``values``, for each ``hits``, ``alarms`` and ``beside``, and what
        cross-validation by ``data`` (families of programs) and ``kind`` ``chose``: smallest and largest value, ``f1``
        on the held-out trainings, that of the best value on the trainings that it is chosen on (``seen``), and that of
        the default.
    """
    healthy = sum(not training.faulty for training in labelled)
    by_rule: dict[str, list[Axis]] = {}
    for axis in axes:
        by_rule.setdefault(axis.problem, []).append(axis)
    return {
        "made": {**provenance, "trainings": len(labelled), "healthy": healthy},
        "rules": {problem: _rule(labelled, rule_axes) for problem, rule_axes in by_rule.items()},
    }


def _rule(labelled: Sequence[LabelledRun], rule_axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the content of one rule's page; for a rule that raises no error anywhere, its warnings count."""
    errors = any("error" in training.levels[axis.name] for training in labelled for axis in rule_axes)
    bar = "error" if errors else "warning"
    at_default = counts(labelled, rule_axes[0], bar)[rule_axes[0].values.index(rule_axes[0].default)]
    thresholds = {axis.threshold: _threshold(labelled, axis, bar) for axis in rule_axes if axis.threshold}
    moving = {
        name: lines for name, lines in thresholds.items() if any(len(set(lines[count])) > 1 for count in _COUNTED[:2])
    }
    return {
        "bar": bar,
        "cause": at_default.hits + at_default.misses,
        "usual": {name: getattr(at_default, name) for name in _COUNTED},
        "thresholds": moving,
        "still": [name for name in thresholds if name not in moving],
    }


def _threshold(labelled: Sequence[LabelledRun], axis: Axis, bar: str) -> dict[str, Any]:
    totals = counts(labelled, axis, bar)
    return {
        "default": axis.default,
        "values": [value if value == axis.default else _short(value) for value in axis.values],
        **{name: [getattr(total, name) for total in totals] for name in _COUNTED},
        "chose": {by: _chosen(cross_validate(labelled, axis, by, bar)) for by in ("data", "kind")},
    }


def _chosen(validation: Validation) -> dict[str, Any]:
    ends = [_short(min(validation.chosen)), _short(max(validation.chosen))]
    return {
        "groups": validation.groups,
        "values": ends,
        "f1": _rounded(validation.held_out.f1),
        "seen": _rounded(validation.fitted.f1),
        "default": _rounded(validation.default.f1),
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
